"""What is the same in both passes of a step, kept from the first to the second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit import in_place_of_forward


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


def trains(module: Any) -> bool:
    return any(weights.requires_grad for weights in module.parameters())


class Recall:
    """Towers in which nothing trains, computed once for each part of a batch, whatever calls that takes.

    What is kept is the pooled output, which is all that a CLIP goes on with, and the random state that the tower left
    behind, for what comes after it.
    """

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, part: int) -> None:
        """The model is called with this part next; a second time its towers are called as they were the first time."""
        self.part = part
        self.calls: Counter[int] = Counter()
        """Of each tower, by the number it is given, since the part began."""

    @contextmanager
    def attached(self, clip: Any) -> Iterator[Recall]:
        """`clip`: unwrapped."""
        with ExitStack() as stack:
            for number, tower in enumerate((clip.vision_model, clip.text_model)):
                if not trains(tower):
                    stack.enter_context(in_place_of_forward(tower, self._once(number, tower.forward)))
            yield self

    def _once(self, tower: int, compute: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[tuple[int, int], tuple[type, Tensor, Randomness]] = {}

        def recalled(*args: Any, **kwargs: Any) -> Any:
            place = self.part, self.calls[tower]  # captions of one length at a time are several calls
            self.calls[tower] += 1
            if place not in known:
                made = compute(*args, **kwargs)
                pooled = made.pooler_output.detach()
                known[place] = (type(made), pooled, Randomness.now(pooled.device))
            kind, pooled, after = known[place]
            after.put_back()
            return kind(pooler_output=pooled)

        return recalled
