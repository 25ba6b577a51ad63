"""Rows looked at: what a raw one promises, from headers alone, and what the model sees of a prepared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit import DataError, Row
from toolkit_whisper.audio import check_length, name_of, opened
from toolkit_whisper.features import FeatureSpec
from toolkit_whisper.labels import START, labels_of, language_of, prompt_for
from toolkit_whisper.prepare import part_of


class Inspect:
    """`(row) -> facts`: label tokens, seconds, the sampling rate, and whether the row can be used or why not."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer, self.features = processor.tokenizer, FeatureSpec.of(processor.feature_extractor)

    def __call__(self, row: Row) -> Mapping[str, float | str]:
        """The facts of a row; its sound is not decoded, so a file that breaks off is not noticed.

        Raises:
            DataError: no usable text, or the sound cannot be opened or is longer than the window; with `facts`.
        """
        facts: dict[str, float | str] = {}
        try:
            self._text(row, facts)
            self._sound(row, facts)
        except DataError as error:
            error.facts = facts
            raise
        return {**facts, "usable": "yes"}

    def _text(self, row: Row, facts: dict[str, float | str]) -> None:
        text, tokenizer = row["text"], self.tokenizer
        facts["usable"] = "no: no known language"
        try:
            language = language_of(row, tokenizer)
            prompt = prompt_for(language, tokenizer)
            if tokenizer.task is not None:
                facts["language"] = language
            facts["usable"] = "no: no transcript"
            if isinstance(text, str) and text.strip():
                transcript = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
                facts["label tokens"] = len(prompt) + len(transcript)  # less the start, with the end
                facts["usable"] = f"no: over {tokenizer.model_max_length} tokens"
            labels_of(text, tokenizer, prompt)
        except DataError as error:
            raise DataError(f"{name_of(row['audio'])}: {error.message}", error.hint) from None

    def _sound(self, row: Row, facts: dict[str, float | str]) -> None:
        facts["usable"] = "no: sound missing or unreadable"
        with opened(row["audio"], *part_of(row)) as recording:
            if not recording.samples:
                raise DataError(f"{recording.name} holds no samples")
            facts |= {"seconds": recording.seconds, "sampling rate": f"{recording.rate} Hz"}
            facts["usable"] = f"no: over {self.features.seconds:g} s"
            check_length(recording, self.features.seconds)


def seconds(row: Row) -> float:
    """How long a raw row sounds, as its file's header says."""
    with opened(row["audio"], *part_of(row)) as recording:
        return recording.seconds


class Show:
    """`(prepared row) -> text`: how long it sounds, and what the decoder shall write, with special tokens."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer, self.rate = processor.tokenizer, processor.feature_extractor.sampling_rate

    def __call__(self, row: Row) -> str:
        lasts, labels = len(row["audio"]) / self.rate, row["labels"]
        written = self.tokenizer.decode(labels, skip_special_tokens=False)
        return f"{lasts:.2f} s of sound at {self.rate} Hz, {len(labels)} label tokens: {START}{written}"
