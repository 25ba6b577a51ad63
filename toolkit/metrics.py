"""Metrics over a stream of batches: the loss that every run has, and all of a run's metrics as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self

from toolkit.errors import PluginError
from toolkit.types import Metric, Scored


class LossMetric(Metric):
    """`loss`: nats per target over all rows, not a mean of batch means."""

    higher_is_better = False

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, scored: Scored) -> None:
        self.total += float(scored.loss.total)
        self.count += int(scored.loss.count)

    def merge(self, other: Self) -> None:
        self.total += other.total
        self.count += other.count

    def compute(self) -> dict[str, float]:
        return {"loss": self.total / self.count if self.count else float("nan")}


SAMPLES = 3
"""How many rows of an evaluation are shown."""


@dataclass(frozen=True)
class Sample:
    """What the model made of a row, and what it should have."""

    row_id: int
    prediction: str | float
    reference: str | float


class Scores:
    """The metrics of one evaluation, with the rows they have seen, the first few as samples."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = [LossMetric(), *metrics]
        self.rows = 0
        self.samples: list[Sample] = []

    def update(self, scored: Scored) -> None:
        self.rows += len(scored.batch["row_id"])
        self.samples += islice(_samples(scored), SAMPLES - len(self.samples))
        for metric in self.metrics:
            metric.update(scored)

    def merge(self, other: Self) -> None:
        self.rows += other.rows
        self.samples = sorted([*self.samples, *other.samples], key=lambda one: one.row_id)[:SAMPLES]
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            mine.merge(theirs)

    def compute(self) -> dict[str, float]:
        """All values by name.

        Raises:
            PluginError: two metrics give the same name.
        """
        values: dict[str, float] = {}
        for metric in self.metrics:
            for name, value in metric.compute().items():
                if name in values:
                    raise PluginError(
                        f"two metrics are named '{name}', the later of them a {type(metric).__qualname__}",
                        hint="rename one, or leave out the plugin that adds it",
                    )
                values[name] = float(value)
        return values

    def higher_is_better(self) -> dict[str, bool]:
        """For each name whether larger values are better."""
        return {name: metric.higher_is_better for metric in self.metrics for name in metric.compute()}


def _samples(scored: Scored) -> Iterator[Sample]:
    """The rows of a batch whose predictions can be read: texts and numbers."""
    for row_id, *pair in zip(scored.batch["row_id"], scored.predictions, scored.references, strict=False):
        if all(isinstance(one, str | int | float) for one in pair):
            yield Sample(int(row_id), *pair)
