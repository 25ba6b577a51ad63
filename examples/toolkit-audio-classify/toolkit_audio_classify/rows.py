"""One row at a time: what its header promises, and what it becomes before it is collated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit import DataError, Row

from toolkit_audio_classify.audio import duration, load


class Labels:
    """`(label) -> number`, its place among the classes."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(classes)}

    def __call__(self, label: Any) -> int:
        if str(label) not in self.numbers:
            raise DataError(
                f"the label '{label}' is no class", hint=f"the classes are: {', '.join(self.numbers)}"
            )
        return self.numbers[str(label)]


class Inspect:
    """`(row) -> facts`: its class and its seconds, without decoding it."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.labels = Labels(classes)

    def __call__(self, row: Row) -> Mapping[str, float | str]:
        """Look at the label and the header.

        Raises:
            DataError: the label is no class, or the recording cannot be opened.
        """
        self.labels(row["label"])
        return {"label": str(row["label"]), "seconds": duration(row["audio"])}


class Prepare:
    """`(row) -> row`: `audio` as (samples,) float32 of one length, at the model's rate; `label` as a class's number."""

    def __init__(self, classes: Sequence[str], rate: int, seconds: float) -> None:
        self.labels, self.rate, self.seconds = Labels(classes), rate, seconds

    def __call__(self, row: Row) -> Row:
        """Decode and look up.

        Raises:
            DataError: the recording cannot be read, or the label is no class.
        """
        label = self.labels(row["label"])
        return {**row, "audio": load(row["audio"], self.rate, self.seconds), "label": label}
