"""Logits of many targets some at a time, so that a long batch does not hold those of its whole vocabulary at once.

The logits of 2,048 targets over 49,152 tokens take 400 MB, and their logarithms and slopes as much again each. The
gradient of a sum needs no other part's logits, so it is worked out with each part's loss, and nothing is computed
twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

HELD = 1 << 25
"""Logits that are held at once: 134 MB of them."""


def are_many(targets: int, vocabulary: int) -> bool:
    """Whether all logits together are so many that it is worth while to go part by part."""
    return targets * vocabulary > 2 * HELD


@dataclass(frozen=True)
class Outputs:
    """In place of a model's outputs: `logits` (1, targets, vocabulary) are made when they are asked for."""

    hidden: Tensor
    head: Any

    @property
    def logits(self) -> Tensor:
        return self.head(self.hidden[None])  # type: ignore[no-any-return]


def summed_in_parts(head: Any, hidden: Tensor, targets: Tensor, vocabulary: int) -> Tensor:
    """Cross-entropy in nats, summed; with a gradient for `hidden` and for what trains in the head.

    Args:
        head: makes logits (1, n, vocabulary) of hidden states (1, n, size).
        hidden: (targets, size).
        targets: (targets,).
    """
    weights = [one for one in head.parameters() if one.requires_grad]
    return _Summed.apply(head, vocabulary, targets, hidden, *weights)  # type: ignore[no-any-return]


def parts(hidden: Tensor, targets: Tensor, vocabulary: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Hidden states and targets, so many at a time that their logits are `HELD` at most."""
    count = max(1, HELD // vocabulary)
    return zip(torch.split(hidden, count), torch.split(targets, count), strict=True)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, head: Any, vocabulary: int, targets: Tensor, hidden: Tensor, *weights: Tensor
    ) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32))
        slopes = [torch.empty_like(hidden), *map(torch.zeros_like, weights)]
        place = 0
        for part, wanted in parts(hidden, targets, vocabulary):
            with torch.enable_grad():
                part = part.detach().requires_grad_()
                loss = cross_entropy(wide(head(part[None])[0]), wanted, reduction="sum")
            of_part, *of_weights = torch.autograd.grad(loss, [part, *weights])
            slopes[0][place : place + len(part)] = of_part
            for slope, more in zip(slopes[1:], of_weights, strict=True):
                slope += more
            total += loss.detach()
            place += len(part)
        context.save_for_backward(*slopes)
        return total

    @staticmethod
    def backward(context: Any, *upward: Tensor) -> tuple[Any, ...]:
        return None, None, None, *(slope * upward[0] for slope in context.saved_tensors)


def wide(logits: Tensor) -> Tensor:
    return logits.float() if logits.itemsize < 4 else logits


def may_be_worked_out_early(model: Any, head: Any) -> bool:
    """Whether the gradient may be known before anybody asks for it, and the head be used outside the model's forward.

    In float16 it would be lost for want of the factor by which losses are scaled up. Of models that are spread over
    processes some parts are there only meanwhile, and others say with the end of the forward what has a gradient.
    """
    weights = [*head.parameters()]
    device = weights[0].device.type
    precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
    trains = any(one.requires_grad for one in weights)
    is_copied = isinstance(model, DistributedDataParallel) and not trains
    return precision != torch.float16 and (is_copied or extract_model_from_parallel(model) is model)


_NOTHING_FOLLOWS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def nothing_follows(model: Any, head: Any) -> bool:
    """Whether a model's logits are what its head makes, neither scaled nor capped after; it is tried once."""
    if model not in _NOTHING_FOLLOWS:
        _NOTHING_FOLLOWS[model] = _tried(model, head)
    return _NOTHING_FOLLOWS[model]


@torch.no_grad()
def _tried(model: Any, head: Any) -> bool:
    made: list[Tensor] = []
    hook = head.register_forward_hook(lambda _, __, logits: made.append(logits))
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (1, 8), generator=torch.Generator().manual_seed(0)).to(model.device)
    try:
        with torch.random.fork_rng():
            logits = model(input_ids=ids, use_cache=False).logits
    except (TypeError, ValueError, RuntimeError):
        return False
    finally:
        hook.remove()
    alike = len(made) == 1 and made[0].shape == logits.shape and torch.equal(made[0].to(logits), logits)
    return bool(alike and logits.any())
