"""Word and character error rates, as written and normalised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Self

from rapidfuzz.distance import Levenshtein
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from toolkit import Metric, Scored
from toolkit_whisper.labels import language_code

Normaliser = Callable[[str], str]


def normaliser(tokenizer: Any) -> Normaliser:
    """Whisper's own for English, which translations are too, or for any other language."""
    english = tokenizer.language is None or language_code(tokenizer.language) == "en"
    if english or tokenizer.task == "translate":
        return EnglishTextNormalizer(tokenizer.english_spelling_normalizer or {})  # type: ignore[no-any-return]
    return BasicTextNormalizer()  # type: ignore[no-any-return]


class ErrorRates(Metric):
    """`wer`, `cer` (normalised), `wer_raw`, `cer_raw`: all edits over all words or characters there are.

    Edits are substitutions, deletions and insertions. A reference that is empty once normalised counts by its
    insertions; where no reference holds anything, the rate is nan.

        >>> rates = ErrorRates(str.lower)
        >>> rates.add(predictions=["The cat sat"], references=["the cat sat down"])
        >>> rates.compute()["wer"], rates.compute()["wer_raw"]
        (0.25, 0.5)
    """

    higher_is_better = False

    def __init__(self, normalise: Normaliser) -> None:
        self.normalise = normalise
        self.edits: Counter[str] = Counter()
        self.lengths: Counter[str] = Counter()

    def update(self, scored: Scored) -> None:
        self.add(scored.predictions, scored.references)

    def add(self, predictions: Iterable[str], references: Iterable[str]) -> None:
        """Count pairs of texts."""
        for prediction, reference in zip(predictions, references, strict=True):
            self._count("_raw", prediction.strip(), reference.strip())
            self._count("", self.normalise(prediction).strip(), self.normalise(reference).strip())

    def _count(self, kind: str, prediction: str, reference: str) -> None:
        for name, its, true in (
            (f"wer{kind}", prediction.split(), reference.split()),
            (f"cer{kind}", prediction, reference),
        ):
            self.edits[name] += Levenshtein.distance(true, its)
            self.lengths[name] += len(true)

    def merge(self, other: Self) -> None:
        self.edits.update(other.edits)
        self.lengths.update(other.lengths)

    def compute(self) -> dict[str, float]:
        return {name: self._rate(name) for name in ("wer", "cer", "wer_raw", "cer_raw")}

    def _rate(self, name: str) -> float:
        return self.edits[name] / self.lengths[name] if self.lengths[name] else float("nan")
