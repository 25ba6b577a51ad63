"""A batch of an evaluation: its loss and its texts, the encoder run once for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit import Batch, Loss, Scored, unwrapped
from toolkit_whisper.features import FULL, window_of
from toolkit_whisper.loss import features_for, total_at_labels
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.transcribe import transcribe
from toolkit_whisper.windows import by_window, in_full_window


@dataclass(frozen=True)
class Evaluate:
    """`(model, batch) -> Scored`: `predictions` are generated texts, `references` the transcripts.

    With short windows the batch's `in_full_window` has the texts that the full one gives.
    """

    processor: Any
    settings: WhisperSettings

    def __call__(self, model: Any, batch: Batch) -> Scored:
        whisper = unwrapped(model)
        total: Any = 0.0
        texts: list[str] = [""] * len(batch["references"])
        heard: dict[int, Any] = {}
        for places, part in by_window(batch):
            features = features_for(whisper, part)
            encoded = whisper.get_encoder()(features)
            total = total + total_at_labels(whisper, part, encoded)
            for place, text, one in zip(
                places, self._texts(whisper, encoded, part["prompt"]), features, strict=True
            ):
                texts[place], heard[place] = text, one
        if window_of(self.processor.feature_extractor, self.settings.audio_window) != FULL:
            batch = {**batch, "in_full_window": self._in_full(whisper, heard, batch["prompt"], texts)}
        loss = Loss(total, count=batch["num_targets"])
        return Scored(loss, batch, predictions=texts, references=batch["references"])

    def _in_full(
        self, whisper: Any, heard: Mapping[int, Tensor], prompt: Tensor, texts: list[str]
    ) -> list[str]:
        """What the full window gives of each row, from all that had a short one at once."""
        frames = 2 * whisper.config.max_source_positions
        short = [place for place in sorted(heard) if heard[place].shape[-1] < frames]
        result = list(texts)
        if short:
            features = torch.cat([in_full_window(heard[place][None], frames) for place in short])
            said = self._texts(whisper, whisper.get_encoder()(features), prompt[short])
            for place, text in zip(short, said, strict=True):
                result[place] = text
        return result

    def _texts(self, whisper: Any, encoded: Any, prompt: Tensor) -> list[str]:
        return transcribe(whisper, encoded, self.processor.tokenizer, prompt, self.settings)
