"""One raw row made ready: its sound decoded, its transcript in tokens."""

from __future__ import annotations

import math
from typing import Any

from toolkit import DataError, Row
from toolkit_whisper.audio import load, name_of
from toolkit_whisper.features import FeatureSpec
from toolkit_whisper.labels import labels_of, language_of, prompt_for


class Prepare:
    """`audio` becomes (samples,) float32 at the model's rate, `language` a code.

    `prompt` and `labels` (lists of tokens) are added, `window`, the most samples the model takes, and `seconds`, how
    long the clip lasts. Columns `start` and `end`, in seconds, cut it out of a longer file, of which no more is read.
    """

    def __init__(self, processor: Any, audio_window: str | float | None = None) -> None:
        self.tokenizer = processor.tokenizer
        self.features = FeatureSpec.of(processor.feature_extractor, audio_window)

    def __call__(self, row: Row) -> Row:
        """Decode and tokenise.

        Raises:
            DataError: the sound cannot be read or is longer than the window, or there is no usable text or language.
            RecipeError: no row says its language, nor do the settings.
        """
        language, prompt, labels = asked_and_answered(row, self.tokenizer)
        audio = load(row["audio"], self.features.rate, self.features.seconds, *part_of(row))
        return {
            **row,
            "audio": audio,
            "seconds": len(audio) / self.features.rate,
            "window": self.features.samples,
            "language": language,
            "prompt": prompt,
            "labels": labels,
        }


def asked_and_answered(row: Row, tokenizer: Any) -> tuple[str, list[int], list[int]]:
    """A row's language, what the decoder is asked with, and what it shall answer.

    Raises:
        DataError: there is no usable text or language; it names the row's audio, and its facts say why.
        RecipeError: no row says its language, nor do the settings.
    """
    try:
        language = language_of(row, tokenizer)
        prompt = prompt_for(language, tokenizer)
        return language, prompt, labels_of(row["text"], tokenizer, prompt)
    except DataError as error:
        named = DataError(f"{name_of(row['audio'])}: {error.message}", error.hint)
        named.facts = error.facts
        raise named from None


def part_of(row: Row) -> tuple[float, float | None]:
    """Where in its file a row starts and ends, in seconds; None is the end of the file.

    Raises:
        DataError: what it says is no number of seconds.
    """
    return _seconds(row, "start") or 0.0, _seconds(row, "end")


def _seconds(row: Row, column: str) -> float | None:
    given = row.get(column)
    if given is None or given == "":
        return None
    try:
        found = float(given)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise DataError(
            f"{name_of(row['audio'])}: {column}: expected seconds, found {given!r:.40}",
            hint="give a number such as 12.5; rename the column if it means something else",
        )
    return found
