"""The loss of a batch, summed over its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import Seq2SeqLMOutput

from toolkit import Batch, Loss
from toolkit_whisper.windows import by_window


def summed_cross_entropy(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the labels of all rows."""
    parts = [(places, _outputs(model, part)) for places, part in by_window(batch)]
    return loss_of(together(parts), batch)


def _outputs(model: Any, batch: Batch) -> Any:
    features, inputs = features_for(model, batch), batch["decoder_input_ids"]
    return model(input_features=features, decoder_input_ids=inputs, use_cache=False)


def together(parts: Sequence[tuple[list[int], Any]]) -> Any:
    """The outputs of the rows of each window as those of the batch."""
    if len(parts) == 1:
        return parts[0][1]
    order = torch.tensor([place for places, _ in parts for place in places]).argsort()
    logits = torch.cat([outputs.logits for _, outputs in parts])
    return Seq2SeqLMOutput(logits=logits[order.to(logits.device)])


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
