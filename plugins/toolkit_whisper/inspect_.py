"""Rows looked at: what a raw one promises, from headers alone, and what the model sees of a prepared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit import DataError, Row
from toolkit_whisper.audio import check_length, no_samples, opened
from toolkit_whisper.features import FeatureSpec
from toolkit_whisper.labels import START
from toolkit_whisper.prepare import asked_and_answered, part_of


class Inspect:
    """`(row) -> facts`: label tokens, seconds, the sampling rate, and whether the row can be used or why not."""

    def __init__(self, processor: Any, audio_window: str | float | None = None) -> None:
        self.tokenizer = processor.tokenizer
        self.features = FeatureSpec.of(processor.feature_extractor, audio_window)

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
            error.facts = {**facts, **error.facts}
            raise
        return {**facts, "usable": "yes"}

    def _text(self, row: Row, facts: dict[str, float | str]) -> None:
        language, _, labels = asked_and_answered(row, self.tokenizer)
        if self.tokenizer.task is not None:
            facts["language"] = language
        facts["label tokens"] = len(labels)

    def _sound(self, row: Row, facts: dict[str, float | str]) -> None:
        facts["usable"] = "no: sound missing or unreadable"
        with opened(row["audio"], *part_of(row)) as recording:
            if not recording.samples:
                raise no_samples(recording.name)
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
