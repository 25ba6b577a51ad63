"""Metrics over a stream of batches: the loss that every run has, those of `evaluate`, and all of a run's as one."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, Self

from toolkit.answers import expected, expected_values
from toolkit.errors import PluginError, RecipeError, first_line
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


class EvaluateMetric(Metric):
    """A metric of the library `evaluate`, fed with predictions and references as they are.

    Such metrics do not add up, so all predictions are kept until the end; with texts that is little. What they are
    called, and whether larger is better, is known only once they are computed: they cannot choose a checkpoint.

        EvaluateMetric(evaluate.load("chrf"))

    Raises:
        RecipeError: when it is computed, or no plugin gives predictions.
    """

    def __init__(self, module: Any) -> None:
        self.module = module
        self.predictions: list[Any] = []
        self.references: list[Any] = []

    def update(self, scored: Scored) -> None:
        if not scored.predictions:
            raise RecipeError(
                f"eval.metrics: '{self.module.name}' needs predictions, of which the plugins give none",
                hint="leave it out; a plugin's toolkit_evaluate_batch gives predictions",
            )
        self.predictions += scored.predictions
        self.references += scored.references

    def merge(self, other: Self) -> None:
        self.predictions += other.predictions
        self.references += other.references

    def compute(self) -> dict[str, float]:
        """Those results that are numbers; nothing before the first batch, for nobody knows their names."""
        if not self.predictions:
            return {}
        try:
            found = self.module.compute(predictions=self.predictions, references=self.references)
        except Exception as error:  # it is foreign code
            raise RecipeError(
                f"eval.metrics: '{self.module.name}' cannot be computed: {first_line(error)}",
                hint=f"it takes {self.module.features}",
            ) from error
        return {name: float(value) for name, value in found.items() if isinstance(value, Real)}


def named_metrics(names: Sequence[str], trusted: bool) -> list[EvaluateMetric]:
    """The metrics of `eval.metrics`, by name on the hub or by local path.

    A metric is a program. One of the user's own may run; one of the hub only where `model.trust_remote_code` says so.

    Raises:
        RecipeError: they cannot be loaded; all faults together.
    """
    found, faults = [], []
    for name in names:
        try:
            found.append(EvaluateMetric(_loaded(name, trusted)))
        except RecipeError as fault:
            faults.append(fault)
    if faults:
        raise RecipeError.gather(faults)
    return found


def _loaded(name: str, trusted: bool) -> Any:
    if importlib.util.find_spec("evaluate") is None:
        raise RecipeError(f"eval.metrics: '{name}' needs evaluate", hint="pip install evaluate")
    path = Path(name).expanduser()
    if not path.exists() and not trusted:
        raise RecipeError(
            f"eval.metrics: '{name}' is no path, and a metric of the hub is a program that would run here",
            hint="name a metric's folder, or set model.trust_remote_code: true where you trust it",
        )
    import evaluate

    try:
        return evaluate.load(str(path) if path.exists() else name, module_type="metric")
    except Exception as error:  # of many kinds: of the network, of the metric's own code
        raise RecipeError(
            f"eval.metrics: '{name}' cannot be loaded: {first_line(error)}",
            hint="name a folder NAME that holds NAME.py with an evaluate.Metric, or a metric of the hub",
        ) from error


SAMPLES = 3
"""How many rows of an evaluation are shown."""


@dataclass(frozen=True)
class Sample:
    """What the model made of a row, and what it should have."""

    row_id: int
    prediction: str | float
    reference: str | float


class Scores:
    """The metrics of one evaluation, with the rows they have seen, the first `most` of them as samples."""

    def __init__(self, metrics: Sequence[Metric], most: int = SAMPLES) -> None:
        self.metrics = [LossMetric(), *metrics]
        self.rows, self.most = 0, most
        self.samples: list[Sample] = []

    def update(self, scored: Scored) -> None:
        self.rows += len(scored.batch["row_id"])
        self.samples += islice(_samples(scored), self.most - len(self.samples))
        for metric in self.metrics:
            metric.update(scored)

    def merge(self, other: Self) -> None:
        self.rows += other.rows
        self.samples = sorted([*self.samples, *other.samples], key=lambda one: one.row_id)[: self.most]
        for mine, theirs in zip(self.metrics, other.metrics, strict=True):
            mine.merge(theirs)

    def compute(self) -> dict[str, float]:
        """All values by name.

        Raises:
            PluginError: two metrics give the same name.
        """
        return {name: float(value) for _, name, value in self._values()}

    def higher_is_better(self) -> dict[str, bool]:
        """For each name whether larger values are better; raises as `compute` does."""
        return {name: _direction(metric, name) for metric, name, _ in self._values()}

    def _values(self) -> Iterator[tuple[Metric, str, Any]]:
        seen: set[str] = set()
        for metric in self.metrics:
            for name, value in expected_values(metric.compute()).items():
                if name in seen:
                    raise PluginError(
                        f"two metrics are named '{name}'; the second is of class {type(metric).__qualname__}",
                        hint="rename one, or leave out the plugin that adds it",
                    )
                seen.add(name)
                yield metric, name, value


def _direction(metric: Metric, name: str) -> bool:
    higher = getattr(metric, "higher_is_better", None)
    direction = higher.get(name) if isinstance(higher, Mapping) else higher
    return expected(direction, bool, "toolkit_metrics", f"higher_is_better, true or false of '{name}'")


def _samples(scored: Scored) -> Iterator[Sample]:
    """The rows of a batch whose predictions can be read: texts and numbers."""
    for row_id, *pair in zip(scored.batch["row_id"], scored.predictions, scored.references, strict=False):
        if all(isinstance(one, str | int | float) for one in pair):
            yield Sample(int(row_id), *pair)
