"""The loss of a batch, summed over its tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from toolkit import Batch, Loss


def summed_cross_entropy(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the labels of all rows."""
    features, inputs = features_for(model, batch), batch["decoder_input_ids"]
    outputs = model(input_features=features, decoder_input_ids=inputs, use_cache=False)
    return loss_of(outputs, batch)


def loss_of(outputs: Any, batch: Batch) -> Loss:
    """The loss of a forward that has been made."""
    logits = outputs.logits.flatten(0, 1)  # (rows * tokens, vocabulary)
    logits = logits.float() if logits.itemsize < 4 else logits
    total = cross_entropy(logits, batch["labels"].flatten(), reduction="sum")
    return Loss(total, count=batch["num_targets"], outputs=outputs)


def features_for(model: Any, batch: Batch) -> Tensor:
    """The batch's features in the precision of the model's first layer."""
    dtype = next(weights.dtype for weights in model.parameters() if weights.is_floating_point())
    features: Tensor = batch["input_features"].to(dtype)
    return features
