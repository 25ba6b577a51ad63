"""What is measured, counted over all rows and divided once."""

from __future__ import annotations

import math
from typing import Self

from toolkit import Metric, Scored


class Perplexity(Metric):
    """`perplexity`: among how many tokens, all alike, the model is as undecided: e to the nats per token."""

    higher_is_better = False

    def __init__(self) -> None:
        self.nats, self.tokens = 0.0, 0

    def update(self, scored: Scored) -> None:
        self.nats += float(scored.loss.total)
        self.tokens += int(scored.loss.count)

    def merge(self, other: Self) -> None:
        self.nats, self.tokens = self.nats + other.nats, self.tokens + other.tokens

    def compute(self) -> dict[str, float]:
        try:
            return {"perplexity": math.exp(self.nats / self.tokens) if self.tokens else math.nan}
        except OverflowError:
            return {"perplexity": math.inf}


class _Share(Metric):
    """So many of so many."""

    higher_is_better = True
    name: str

    def __init__(self) -> None:
        self.right, self.all = 0, 0

    def merge(self, other: Self) -> None:
        self.right, self.all = self.right + other.right, self.all + other.all

    def compute(self) -> dict[str, float]:
        return {self.name: self.right / self.all if self.all else math.nan}


class TokenAccuracy(_Share):
    """`token_accuracy`: the share of tokens that were the likeliest, each after the right ones before it."""

    name = "token_accuracy"

    def update(self, scored: Scored) -> None:
        self.right += int(scored.batch["right"])
        self.all += int(scored.loss.count)


class ExactMatch(_Share):
    """`exact_match`: the share of rows whose generated answer is the right one, but for spaces around it.

    >>> metric = ExactMatch()
    >>> metric.add(predictions=["yes", "no"], references=["yes", "No"])
    >>> metric.compute()
    {'exact_match': 0.5}
    """

    name = "exact_match"

    def update(self, scored: Scored) -> None:
        self.add(list(scored.predictions), list(scored.references))

    def add(self, predictions: list[str], references: list[str]) -> None:
        """Count pairs of texts."""
        pairs = list(zip(predictions, references, strict=True))
        self.right += sum(one.strip() == other.strip() for one, other in pairs)
        self.all += len(pairs)
