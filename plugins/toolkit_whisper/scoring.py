"""A batch of an evaluation: its loss and its texts, the encoder run once for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit import Batch, Scored
from toolkit_whisper.features import FULL, window_of
from toolkit_whisper.loss import features_for, loss_of, together
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.transcribe import transcribe, unwrapped
from toolkit_whisper.windows import by_window, in_full_window, in_order


@dataclass(frozen=True)
class Evaluate:
    """`(model, batch) -> Scored`: `predictions` are generated texts, `references` the transcripts.

    With short windows the batch's `in_full_window` has the texts that the full one gives.
    """

    processor: Any
    settings: WhisperSettings

    def __call__(self, model: Any, batch: Batch) -> Scored:
        whisper = unwrapped(model)
        outputs, texts, in_full = [], [], []
        for places, part in by_window(batch):
            features = features_for(whisper, part)
            made, said = self._scored(whisper, features, part)
            outputs.append((places, made))
            texts.append((places, said))
            if window_of(self.processor.feature_extractor, self.settings.audio_window) != FULL:
                in_full.append((places, self._in_full(whisper, features, part, said)))
        loss = loss_of(together(outputs), batch)
        batch = {**batch, "in_full_window": in_order(in_full)}
        return Scored(loss, batch, predictions=in_order(texts), references=batch["references"])

    def _scored(self, whisper: Any, features: Any, part: Batch) -> tuple[Any, list[str]]:
        encoded = whisper.get_encoder()(features)
        outputs = whisper(
            encoder_outputs=encoded, decoder_input_ids=part["decoder_input_ids"], use_cache=False
        )
        return outputs, self._texts(whisper, encoded, part)

    def _in_full(self, whisper: Any, features: Any, part: Batch, said: list[str]) -> list[str]:
        frames = 2 * whisper.config.max_source_positions
        if features.shape[-1] == frames:
            return said
        return self._texts(whisper, whisper.get_encoder()(in_full_window(features, frames)), part)

    def _texts(self, whisper: Any, encoded: Any, part: Batch) -> list[str]:
        return transcribe(whisper, encoded, self.processor.tokenizer, part["prompt"], self.settings)
