"""What is the same in both passes of a step, kept from the first to the second."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Randomness:
    """What dropout will draw from, on the CPU and on the model's device."""

    device: torch.device
    cpu: Tensor
    own: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> Randomness:
        own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
        return cls(device, torch.get_rng_state(), own)

    def put_back(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.get_device_module(self.device).set_rng_state(self.own, self.device)


class Recall:
    """Towers in which nothing trains, computed once for each part of a batch.

    What is kept is the pooled output, which is all that a CLIP goes on with, and the random state that the tower left
    behind, for what comes after it.
    """

    def __init__(self) -> None:
        self.part = 0
        """The one that the model is called with."""

    @contextmanager
    def attached(self, clip: Any) -> Iterator[Recall]:
        """`clip`: unwrapped."""
        frozen = [one for one in (clip.vision_model, clip.text_model) if not _trains(one)]
        before = [vars(one).get("forward") for one in frozen]  # others may have put something there
        for tower in frozen:
            tower.forward = functools.wraps(tower.forward)(self._once(tower.forward))
        try:
            yield self
        finally:
            for tower, other in zip(frozen, before, strict=True):
                del tower.forward
                if other is not None:
                    tower.forward = other

    def _once(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[int, tuple[type, Tensor, Randomness]] = {}

        def recalled(*args: Any, **kwargs: Any) -> Any:
            if self.part not in known:
                made = compute(*args, **kwargs)
                pooled = made.pooler_output.detach()
                known[self.part] = (type(made), pooled, Randomness.now(pooled.device))
            kind, pooled, after = known[self.part]
            after.put_back()
            return kind(pooler_output=pooled)

        return recalled


def _trains(module: Any) -> bool:
    return any(weights.requires_grad for weights in module.parameters())
