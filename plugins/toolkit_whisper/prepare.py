"""One raw row made ready: its sound decoded, its transcript in tokens."""

from __future__ import annotations

from typing import Any

from toolkit import DataError, Row
from toolkit_whisper.audio import load, name_of
from toolkit_whisper.features import FeatureSpec
from toolkit_whisper.labels import labels_of, language_of, prompt_for


class Prepare:
    """`audio` becomes (samples,) float32 at the model's rate, `language` a code.

    `prompt` and `labels` (lists of tokens) are added.
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
        return {
            **row,
            "audio": load(row["audio"], self.features.rate, self.features.seconds),
            "language": language,
            "prompt": prompt,
            "labels": labels,
        }
