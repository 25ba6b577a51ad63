"""Prepared rows as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from toolkit import Batch, Row
from toolkit_whisper.augment import mask
from toolkit_whisper.features import FeatureSpec, log_mel
from toolkit_whisper.labels import IGNORED, START
from toolkit_whisper.settings import WhisperSettings


class Collator:
    """Log-mel features and padded labels of prepared rows."""

    def __init__(self, processor: Any, settings: WhisperSettings) -> None:
        self.settings = settings
        self.features = FeatureSpec.of(processor.feature_extractor, settings.audio_window)
        self.start: int = processor.tokenizer.convert_tokens_to_ids(START)
        self.padding: int = processor.tokenizer.pad_token_id
        self.into_english: bool = processor.tokenizer.task == "translate"

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Transform the sound and pad the labels.

        Args:
            rows: as `Prepare` makes them, and `Augment` where it does.
        Returns:
            `input_features` (rows, mels, frames) float32; `frames` (rows,) int64, how many of them are a row's window,
            the others are zeros; `labels` (rows, tokens) int64, padding -100;
            `decoder_input_ids` (rows, tokens) int64, the labels one place to the right; `prompt` (rows, asked) int64,
            what each row is asked with; `references`, the texts; `languages`, the codes of what they are in.
        """
        features = [self._features(row) for row in rows]
        return {
            "input_features": pad_sequence([one.T for one in features], batch_first=True)
            .transpose(1, 2)
            .contiguous(),
            "frames": torch.tensor([one.shape[1] for one in features]),
            "labels": _padded([row["labels"] for row in rows], IGNORED),
            "decoder_input_ids": _padded([[self.start, *row["labels"][:-1]] for row in rows], self.padding),
            "num_targets": sum(len(row["labels"]) for row in rows),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
            "prompt": torch.tensor([row["prompt"] for row in rows]),
            "references": [row["text"] for row in rows],
            "languages": ["en" if self.into_english else row["language"] for row in rows],
            "work": {"audio seconds": sum(len(row["audio"]) for row in rows) / self.features.rate},
        }

    def _features(self, row: Row) -> Tensor:
        sound = torch.as_tensor(row["audio"])
        features = log_mel(sound, self.features)
        if "masks" not in row:
            return features
        return mask(features, self.features.touched(len(sound)), row["masks"], self.settings)


def _padded(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(one) for one in sequences], batch_first=True, padding_value=value)
