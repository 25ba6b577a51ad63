"""The loss of a batch, summed over its tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import Seq2SeqLMOutput

from toolkit import Batch, Loss, unwrapped
from toolkit_whisper.labels import IGNORED
from toolkit_whisper.windows import by_window


def summed_cross_entropy(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the labels of all rows.

    In training nothing else is asked of the model, so it makes logits for labels alone, and `outputs` is None.
    """
    if model.training:
        total = sum(total_at_labels(model, part) for _, part in by_window(batch))
        return Loss(total, count=batch["num_targets"])  # type: ignore[arg-type]
    parts = [(places, _outputs(model, part, part["decoder_input_ids"])) for places, part in by_window(batch)]
    return loss_of(together(parts), batch)


def total_at_labels(model: Any, batch: Batch, encoded: Any = None) -> Tensor:
    """The loss of rows of one window, in nats; padding at the end of their texts is not read.

    Args:
        encoded: what the encoder returned for them, if it is known.
    """
    labelled = batch["labels"] != IGNORED
    longest = max(1, int((labelled * torch.arange(1, labelled.shape[1] + 1, device=labelled.device)).max()))
    labels, labelled = batch["labels"][:, :longest], labelled[:, :longest]
    with _logits_only_at(model, labelled):
        logits = _outputs(model, batch, batch["decoder_input_ids"][:, :longest], encoded).logits
    return cross_entropy(_precise(logits), labels[labelled], reduction="sum")


@contextmanager
def _logits_only_at(model: Any, places: Tensor) -> Iterator[None]:
    """Meanwhile a Whisper, within whatever wraps it, makes logits (places, vocabulary) for some of its tokens.

    Args:
        places: (rows, tokens), true or false.
    """
    hook = unwrapped(model).proj_out.register_forward_pre_hook(
        lambda _, given: (given[0][places.to(given[0].device)],)
    )
    try:
        yield
    finally:
        hook.remove()


def _outputs(model: Any, batch: Batch, inputs: Tensor, encoded: Any = None) -> Any:
    if encoded is not None:
        return model(encoder_outputs=encoded, decoder_input_ids=inputs, use_cache=False)
    return model(input_features=features_for(model, batch), decoder_input_ids=inputs, use_cache=False)


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
    total = cross_entropy(_precise(logits), batch["labels"].flatten(), reduction="sum")
    return Loss(total, count=batch["num_targets"], outputs=outputs)


def _precise(logits: Tensor) -> Tensor:
    return logits.float() if logits.itemsize < 4 else logits


def features_for(model: Any, batch: Batch) -> Tensor:
    """The batch's features in the precision of the model's first layer."""
    dtype = next(weights.dtype for weights in model.parameters() if weights.is_floating_point())
    features: Tensor = batch["input_features"].to(dtype)
    return features
