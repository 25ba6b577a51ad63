"""Metrics over a stream of batches: the loss that every run has, and all of a run's metrics as one."""

from __future__ import annotations

from collections.abc import Sequence
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


class Scores:
    """The metrics of one evaluation, with the rows they have seen."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self.metrics = [LossMetric(), *metrics]
        self.rows = 0

    def update(self, scored: Scored) -> None:
        self.rows += len(scored.batch["row_id"])
        for metric in self.metrics:
            metric.update(scored)

    def merge(self, other: Self) -> None:
        self.rows += other.rows
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
