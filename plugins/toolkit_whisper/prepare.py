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

    `prompt` and `labels` (lists of tokens) are added, and `window`, the most samples the model takes. Columns `start`
    and `end`, in seconds, cut the clip out of a longer file, of which no more is read.
    """

    def __init__(self, processor: Any) -> None:
        self.tokenizer, self.features = processor.tokenizer, FeatureSpec.of(processor.feature_extractor)

    def __call__(self, row: Row) -> Row:
        """Decode and tokenise.

        Raises:
            DataError: the sound cannot be read or is longer than the window, or there is no usable text or language.
            RecipeError: no row says its language, nor do the settings.
        """
        try:
            language = language_of(row, self.tokenizer)
            prompt = prompt_for(language, self.tokenizer)
            labels = labels_of(row["text"], self.tokenizer, prompt)
        except DataError as error:
            raise DataError(f"{name_of(row['audio'])}: {error.message}", error.hint) from None
        part = seconds(row, "start") or 0.0, seconds(row, "end")
        return {
            **row,
            "audio": load(row["audio"], self.features.rate, self.features.seconds, *part),
            "window": self.features.samples,
            "language": language,
            "prompt": prompt,
            "labels": labels,
        }


def seconds(row: Row, column: str) -> float | None:
    """A time that a row states, as a number or as text; None where it states none.

    Raises:
        DataError: it is no number of seconds.
    """
    given = row.get(column)
    if given is None or given == "":
        return None
    try:
        found = float(given)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and found >= 0):
        raise DataError(f"{name_of(row['audio'])}: {column}: expected seconds, found {given!r:.40}")
    return found
