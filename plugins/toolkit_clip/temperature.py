"""The temperature held where it belongs."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import TrainerCallback

from toolkit import unwrapped

MOST = math.log(100)
"""Of the logarithm of the scale that cosines are multiplied by."""


class Temperature(TrainerCallback):
    """After each optimizer step the scale of the logits is brought back to between 1 and 100.

    Source: Radford et al. 2021, section 2.5; the bounds and their place are open_clip's.
    """

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        clamp(unwrapped(model))


@torch.no_grad()
def clamp(clip: Any) -> None:
    """Hold `logit_scale` of an unwrapped model in [0, ln 100]; one that does not train is left alone."""
    if clip.logit_scale.requires_grad:
        clip.logit_scale.clamp_(0, MOST)
