"""Laws of metrics."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.errors import PluginError
from toolkit.testing.subject import DoesNotApply, Subject
from toolkit.types import Row


def metrics_add_up(subject: Subject) -> None:
    """Metrics are the same in any order of rows, in batches of any size, and merged from several processes."""
    subject.asked_for("toolkit_metrics")
    from toolkit.testing.training import exact_model, scored

    model, rows = exact_model(subject), subject.many_rows
    cuts = {"in order": [9, 9], "in batches of other sizes": [1, 2, 12]}
    made = {
        how: list(scored(subject, model, map(subject.batch, _cut(rows, sizes))))
        for how, sizes in cuts.items()
    }
    values = {how: _values(subject, some) for how, some in made.items()}
    values["backwards"] = _values(subject, made["in order"][::-1])
    values["merged from two processes"] = _values(subject, made["in order"][:1], made["in order"][1:])
    _refuse_constants([values["in order"], *(_values(subject, [one]) for one in made["in order"])])
    for how, found in values.items():
        _compare(values["in order"], found, how, subject.tolerance)


def _refuse_constants(values: list[dict[str, float]]) -> None:
    """Raise `DoesNotApply` where nothing can be told: all rows and each batch of them have the same values."""
    if len(values) > 2 and all(repr(one) == repr(values[0]) for one in values):
        shown = ", ".join(f"{name} {value:g}" for name, value in values[0].items()) or "nothing at all"
        raise DoesNotApply(
            f"nothing can be told, for each batch gives {shown}: take a model that has learnt something"
        )


def _cut(rows: Sequence[Row], sizes: Sequence[int]) -> list[Sequence[Row]]:
    """`rows` in parts of these sizes, the rest last."""
    bounds = [0, *itertools.accumulate(sizes), len(rows)]
    return [rows[start:end] for start, end in itertools.pairwise(bounds) if start < min(end, len(rows))]


def _values(subject: Subject, *parts: list[Any]) -> dict[str, float]:
    """What fresh metrics say of some batches, each part counted by a process of its own."""
    counted = []
    for part in parts:
        metrics = subject.plugins.answer(subject.name, "toolkit_metrics", processor=subject.processor)
        for metric in metrics:
            for one in part:
                metric.update(one)
        counted.append(metrics)
    first, *others = counted
    for other in others:
        for mine, theirs in zip(first, _sent(other), strict=True):
            mine.merge(theirs)
    return {name: float(value) for metric in first for name, value in metric.compute().items()}


def _sent(metrics: list[Any]) -> list[Any]:
    """As another process gets them."""
    try:
        return list(pickle.loads(pickle.dumps(metrics)))
    except Exception as error:
        raise PluginError(
            f"a metric cannot be sent from one process to another: {error}",
            hint="keep no open files, lambdas or models in it",
        ) from error


def _compare(expected: Mapping[str, float], found: Mapping[str, float], how: str, tolerance: float) -> None:
    from toolkit.testing.comparing import relative

    apart = [
        f"{name} is {expected.get(name)} in order, {found.get(name)} {how}"
        for name in {**expected, **found}
        if name not in expected or name not in found or relative(expected[name], found[name]) > tolerance
    ]
    if apart:
        raise PluginError(
            "; ".join(apart),
            hint="keep counts and sums, add them up in update and merge, and divide once, in compute",
        )
