"""The loss of a batch, summed over its tokens."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import is_compiled_module
from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit import Batch, Loss, in_place_of_forward, unwrapped
from toolkit_causal_lm.attention import segments
from toolkit_causal_lm.encode import IGNORED
from toolkit_causal_lm.parts import (
    Outputs,
    are_many,
    may_be_worked_out_early,
    nothing_follows,
    parts,
    summed_in_parts,
    wide,
)

_INPUTS = ("input_ids", "attention_mask", "position_ids")


def summed_cross_entropy(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the tokens that count, of all rows.

    Its outputs are the model's: `logits` (sequences, tokens, vocabulary), in training (1, targets, vocabulary), for
    only what has a gradient is computed there.
    """
    count = batch["num_targets"]
    if not torch.is_grad_enabled():
        outputs = _forward(model, batch)
        logits, targets = _chosen(outputs.logits, batch)
        return Loss(cross_entropy(logits, targets, reduction="sum"), count, outputs=outputs)
    head = _head(model)
    if _goes_in_parts(model, head, batch) and may_be_worked_out_early(model, head):
        outputs, hidden, targets = _hidden(model, head, batch)
        total = summed_in_parts(head, hidden, targets, _vocabulary(model))
        return _balanced(model, outputs, Loss(total, count, outputs=Outputs(hidden, head)))
    outputs, logits, targets = _all_at_once(model, head, batch)
    total = cross_entropy(logits, targets, reduction="sum")
    return _balanced(model, outputs, Loss(total, count, outputs=outputs))


def _balanced(model: Any, outputs: Any, loss: Loss) -> Loss:
    """The loss and, of a mixture of experts, its own besides that all of them get work, with the weight it gives it."""
    uneven = getattr(outputs, "aux_loss", None)
    if uneven is None:
        return loss
    weight = unwrapped(model).router_aux_loss_coef * loss.count
    return replace(loss, total=loss.total + weight * uneven, report={"router_loss": float(uneven.detach())})


def logits_and_targets(model: Any, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (targets, vocabulary), float32 or wider, and targets (targets,), of many some at a time.

    Each token is predicted at the place before it. Logits are computed at those places alone, where the model lets
    them be chosen.
    """
    head = _head(model)
    if not _goes_in_parts(model, head, batch):
        _, logits, targets = _all_at_once(model, head, batch)
        yield logits, targets
        return
    _, hidden, targets = _hidden(model, head, batch)
    for some, wanted in parts(hidden, targets, _vocabulary(model)):
        yield wide(head(some[None])[0]), wanted


def _all_at_once(model: Any, head: Any, batch: Batch) -> tuple[Any, Tensor, Tensor]:
    """The model's outputs, logits and targets, all at once."""
    if head is None:
        outputs = _forward(model, batch)
        return outputs, *_chosen(outputs.logits, batch)
    with _given_only_targets(head, batch):
        outputs = _forward(model, batch)
    return outputs, wide(outputs.logits[0]), _targets(batch)


def _goes_in_parts(model: Any, head: Any, batch: Batch) -> bool:
    many = are_many(batch["num_targets"], _vocabulary(model))
    return many and head is not None and nothing_follows(unwrapped(model), head)


def _hidden(model: Any, head: Any, batch: Batch) -> tuple[Any, Tensor, Tensor]:
    """The model's outputs but for logits, what the head would make these of (targets, size), and targets (targets,)."""
    given: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        given.append(hidden)
        return hidden

    with in_place_of_forward(head, keep), _given_only_targets(head, batch):
        outputs = _forward(model, batch)
    return outputs, given[0][0], _targets(batch)


def _vocabulary(model: Any) -> int:
    return int(unwrapped(model).config.get_text_config().vocab_size)


def _targets(batch: Batch) -> Tensor:
    targets: Tensor = batch["labels"][:, 1:]
    return targets[targets != IGNORED]


def _forward(model: Any, batch: Batch) -> Any:
    inputs = {name: batch[name] for name in _INPUTS if name in batch}
    return model(**inputs, **segments(unwrapped(model), batch), use_cache=False)


def _chosen(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    return wide(_before(values, batch["labels"][:, 1:])), _targets(batch)


def _before(values: Tensor, targets: Tensor) -> Tensor:
    """Those of the values (sequences, tokens, size) that stand before a target; an adapter's virtual tokens lead."""
    return values[:, -targets.shape[1] - 1 : -1][targets != IGNORED]


def _head(model: Any) -> Any:
    """What makes logits of hidden states, of a model that makes them place by place.

    Such a model can be told which to keep. A compiled one does not see what is hung on its parts later.
    """
    inner = unwrapped(model)
    if is_compiled_module(model) or "logits_to_keep" not in inspect.signature(inner.forward).parameters:
        return None
    return inner.get_output_embeddings()


@contextlib.contextmanager
def _given_only_targets(head: Any, batch: Batch) -> Iterator[None]:
    """Meanwhile the head sees hidden states (1, targets, size) in place of (sequences, tokens, size)."""
    targets = batch["labels"][:, 1:]
    hook = head.register_forward_pre_hook(lambda _, given: (_before(given[0], targets)[None], *given[1:]))
    try:
        yield
    finally:
        hook.remove()
