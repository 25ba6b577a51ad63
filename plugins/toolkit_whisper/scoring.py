"""A batch of an evaluation: its loss and its texts, the encoder run once for both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit import Batch, Scored
from toolkit_whisper.loss import features_for, loss_of
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.transcribe import transcribe, unwrapped


@dataclass(frozen=True)
class Evaluate:
    """`(model, batch) -> Scored`: `predictions` are generated texts, `references` the transcripts."""

    tokenizer: Any
    settings: WhisperSettings

    def __call__(self, model: Any, batch: Batch) -> Scored:
        whisper = unwrapped(model)
        encoded = whisper.get_encoder()(features_for(whisper, batch))
        inputs = batch["decoder_input_ids"]
        outputs = whisper(encoder_outputs=encoded, decoder_input_ids=inputs, use_cache=False)
        texts = transcribe(whisper, encoded, self.tokenizer, batch["prompt"], self.settings)
        return Scored(loss_of(outputs, batch), batch, predictions=texts, references=batch["references"])
