"""Word and character error rates, as written and normalised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from rapidfuzz.distance import Levenshtein
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from toolkit import Metric, Scored

Normaliser = Callable[[str, str], str]
"""`(text, code of the language it is in) -> text`."""
LETTERS_COUNT = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages written without spaces between words."""


class Normalise:
    """Whisper's own for English, and the one for all other languages.

    Where words have no spaces between them it puts one between any two letters, so that the word error rate counts
    letters, as in Whisper's paper.

    Source: Radford et al. 2022, appendix C; `BasicTextNormalizer(split_letters=True)` of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.english = EnglishTextNormalizer(tokenizer.english_spelling_normalizer or {})
        self.basic, self.letters = BasicTextNormalizer(), BasicTextNormalizer(split_letters=True)

    def __call__(self, text: str, language: str) -> str:
        others = self.letters if language in LETTERS_COUNT else self.basic
        return str((self.english if language == "en" else others)(text)).strip()


class ErrorRates(Metric):
    """`wer`, `cer` (normalised), `wer_raw`, `cer_raw`: all edits over all words or characters there are.

    Edits are substitutions, deletions and insertions. A reference that is empty once normalised counts by its
    insertions; where no reference holds anything, the rate is nan. Spaces that the normaliser puts between letters
    are no characters: in `cer` those languages have none.

        >>> rates = ErrorRates(lambda text, language: text.lower())
        >>> rates.add(predictions=["The cat sat"], references=["the cat sat down"], languages=["en"])
        >>> rates.compute()["wer"], rates.compute()["wer_raw"]
        (0.25, 0.5)
    """

    higher_is_better = False

    def __init__(self, normalise: Normaliser) -> None:
        self.normalise = normalise
        self.edits: Counter[str] = Counter()
        self.lengths: Counter[str] = Counter()

    def update(self, scored: Scored) -> None:
        self.add(scored.predictions, scored.references, scored.batch["languages"])

    def add(self, predictions: Iterable[str], references: Iterable[str], languages: Iterable[str]) -> None:
        """Count pairs of texts, each with the code of the language it is in."""
        for *pair, language in zip(predictions, references, languages, strict=True):
            raw, plain = ([text.strip() for text in pair], [self.normalise(text, language) for text in pair])
            self._count("wer_raw", *(text.split() for text in raw))
            self._count("cer_raw", *raw)
            self._count("wer", *(text.split() for text in plain))
            self._count("cer", *(_characters(text, language) for text in plain))

    def _count(self, name: str, prediction: Sequence[str], reference: Sequence[str]) -> None:
        self.edits[name] += Levenshtein.distance(reference, prediction)
        self.lengths[name] += len(reference)

    def merge(self, other: Self) -> None:
        self.edits.update(other.edits)
        self.lengths.update(other.lengths)

    def compute(self) -> dict[str, float]:
        return {name: self._rate(name) for name in ("wer", "cer", "wer_raw", "cer_raw")}

    def _rate(self, name: str) -> float:
        return self.edits[name] / self.lengths[name] if self.lengths[name] else float("nan")


class FullWindowErrorRate(ErrorRates):
    """`wer_full_window`: the word error rate of the texts that the model's full window gives, beside short ones."""

    def update(self, scored: Scored) -> None:
        self.add(scored.batch["in_full_window"], scored.references, scored.batch["languages"])

    def compute(self) -> dict[str, float]:
        return {"wer_full_window": self._rate("wer")}


def _characters(text: str, language: str) -> str:
    return text.replace(" ", "") if language in LETTERS_COUNT else text
