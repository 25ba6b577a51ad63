"""The loss of a batch, summed over its tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit import Batch, Loss
from toolkit_causal_lm.encode import IGNORED

_INPUTS = ("input_ids", "attention_mask", "position_ids")


def summed_cross_entropy(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the tokens that count, of all rows."""
    outputs = forward(model, batch)
    logits, targets = foretold(outputs, batch)
    return Loss(cross_entropy(logits, targets, reduction="sum"), count=batch["num_targets"], outputs=outputs)


def forward(model: Any, batch: Batch) -> Any:
    """The model's outputs, `logits` (sequences, tokens, vocabulary)."""
    return model(**{name: batch[name] for name in _INPUTS if name in batch}, use_cache=False)


def foretold(outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits (targets, vocabulary), float32 or wider, and targets (targets,): each token by the one before it.

    The model's may begin with those of an adapter's virtual tokens.
    """
    targets = batch["labels"][:, 1:]
    counts = targets != IGNORED
    logits = outputs.logits[:, -targets.shape[1] - 1 : -1][counts]
    return logits.float() if logits.itemsize < 4 else logits, targets[counts]
