"""How often the class is right, over all clips and over all classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Self

from toolkit import Metric, Scored


class ClassScores(Metric):
    """`accuracy`: the fraction of clips whose class is predicted. `macro_f1`: the mean over classes of F1.

    F1 of a class is 2·TP / (clips of the class + clips predicted to be of it); the classes are those that were
    predicted or true. Pairs are counted, so neither the size nor the order of the batches matters.

    >>> scores = ClassScores()
    >>> scores.add(predictions=["dog", "dog", "rain", "rain"], references=["dog", "rain", "rain", "rain"])
    >>> scores.compute()  # F1: dog 2 / (1 + 2), rain 4 / (3 + 2)
    {'accuracy': 0.75, 'macro_f1': 0.7333333333333334}
    """

    higher_is_better = True

    def __init__(self) -> None:
        self.pairs: Counter[tuple[str, str]] = Counter()
        """How many clips there are of each `(predicted, true)`."""

    def update(self, scored: Scored) -> None:
        self.add(scored.predictions, scored.references)

    def add(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        self.pairs.update(zip(predictions, references, strict=True))

    def merge(self, other: Self) -> None:
        self.pairs.update(other.pairs)

    def compute(self) -> dict[str, float]:
        if not self.pairs:
            return {"accuracy": float("nan"), "macro_f1": float("nan")}
        predicted, true = Counter[str](), Counter[str]()
        for (ours, theirs), count in self.pairs.items():
            predicted[ours] += count
            true[theirs] += count
        right = {name: self.pairs[name, name] for name in sorted({*predicted, *true})}
        f1 = [2 * hits / (predicted[name] + true[name]) for name, hits in right.items()]
        return {"accuracy": sum(right.values()) / self.pairs.total(), "macro_f1": sum(f1) / len(f1)}
