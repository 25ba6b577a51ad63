"""Windows shorter than Whisper's own: the encoder reads a clip and a little silence, not thirty seconds of it.

Whisper has no mask for silence, so what it makes of a clip depends on the window. Each row's is its own, whatever else
is in the batch: rows of one length go through the model together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from toolkit import Batch

_STRIDE = 2
"""Frames to a position of the encoder."""
_DEPTH = 2.0
"""How far below the peak a feature can be: 8 powers of ten, over 4."""
_SILENCE = -1.5
"""The least feature there is: that of 1e-10."""


class ShortEncoder(WhisperEncoder):
    """Whisper's encoder, which takes features of any even number of frames up to its window."""

    def forward(self, input_features: Tensor, *args: Any, **kwargs: Any) -> Any:
        with _positions(self, input_features.shape[-1] // _STRIDE):
            return super().forward(input_features, *args, **kwargs)


def shorten(encoder: WhisperEncoder) -> None:
    """Have an encoder take short windows too; it is saved as it was."""
    if type(encoder) is WhisperEncoder:
        encoder.__class__ = ShortEncoder


@contextmanager
def _positions(encoder: Any, count: int) -> Iterator[None]:
    whole, most = encoder.embed_positions, encoder.config.max_source_positions
    if count == most:
        yield
        return
    short = nn.Embedding(count, whole.embedding_dim, _weight=whole.weight[:count], _freeze=True)
    encoder.embed_positions = short
    encoder.config.max_source_positions = count
    try:
        yield
    finally:
        encoder.embed_positions, encoder.config.max_source_positions = whole, most


def by_window(batch: Batch) -> Iterator[tuple[list[int], Batch]]:
    """The rows of each window, as places in the batch, and a batch of them alone."""
    frames: list[int] = batch["frames"].tolist()
    if len(set(frames)) == 1:
        yield list(range(len(frames))), batch
        return
    for window in sorted(set(frames)):
        places = [place for place, one in enumerate(frames) if one == window]
        yield (
            places,
            {key: _of(value, places, len(frames)) for key, value in batch.items()}
            | {"input_features": batch["input_features"][places, :, :window]},
        )


def _of(value: Any, places: list[int], count: int) -> Any:
    if isinstance(value, Tensor) and value.dim():
        return value[places]
    return [value[place] for place in places] if isinstance(value, list) and len(value) == count else value


def in_full_window(features: Tensor, frames: int) -> Tensor:
    """Features (rows, mels, short) followed by silence, as `log_mel` makes them for the full window.

    Returns:
        (rows, mels, frames).
    """
    silence = (features.amax(dim=(1, 2), keepdim=True) - _DEPTH).clamp(min=_SILENCE)
    rest = silence.expand(*features.shape[:2], frames - features.shape[2])
    return torch.cat([features, rest], dim=2)
