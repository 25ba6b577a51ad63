from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from toolkit import Loss, Metric, PluginError, Scored
from toolkit.metrics import LossMetric, Sample, Scores


def scored(total: float, count: int, rows: int) -> Scored:
    return Scored(Loss(torch.tensor(total), count), {"row_id": torch.arange(rows)})


def test_loss_is_nats_per_target_not_a_mean_of_means() -> None:
    metric = LossMetric()
    metric.update(scored(6.0, 2, 1))
    metric.update(scored(4.0, 8, 3))
    assert metric.compute() == {"loss": 1.0}
    assert math.isnan(LossMetric().compute()["loss"])


def test_scores_merge_over_processes() -> None:
    one, two = Scores([]), Scores([])
    one.update(scored(6.0, 2, 1))
    two.update(scored(4.0, 8, 3))
    one.merge(two)
    assert (one.compute(), one.rows) == ({"loss": 1.0}, 4)


def with_texts(*rows: int) -> Scored:
    texts = [f"text {row}" for row in rows]
    return Scored(Loss(torch.tensor(0.0), 1), {"row_id": torch.tensor(rows)}, texts, [*reversed(texts)])


def test_the_first_rows_are_kept_as_samples() -> None:
    scores = Scores([])
    for rows in ((0, 1), (4, 5), (6,)):
        scores.update(with_texts(*rows))
    assert [one.row_id for one in scores.samples] == [0, 1, 4]
    assert scores.samples[0] == Sample(0, prediction="text 0", reference="text 1")
    other = Scores([])
    other.update(with_texts(2, 3))
    scores.merge(other)
    assert [one.row_id for one in scores.samples] == [0, 1, 2]


def test_what_cannot_be_read_is_no_sample() -> None:
    scores = Scores([])
    scores.update(scored(1.0, 1, 3))
    batch = {"row_id": torch.arange(2)}
    scores.update(Scored(Loss(torch.tensor(0.0), 1), batch, [torch.zeros(3), 4], [torch.ones(3), 5]))
    assert scores.samples == [Sample(1, 4, 5)]


class Again(Metric):
    higher_is_better = True

    def update(self, scored: Scored) -> None: ...

    def merge(self, other: Again) -> None: ...

    def compute(self) -> dict[str, float]:
        return {"loss": 0.0}


def test_two_metrics_of_one_name_are_refused() -> None:
    for ask in (Scores([Again()]).compute, Scores([Again()]).higher_is_better):
        with pytest.raises(PluginError, match="two metrics are named 'loss'"):
            ask()


def test_each_name_knows_its_direction() -> None:
    class Accuracy(Again):
        def compute(self) -> dict[str, float]:
            return {"accuracy": 1.0}

    assert Scores([Accuracy()]).higher_is_better() == {"loss": False, "accuracy": True}


def test_a_metric_may_have_values_of_both_directions() -> None:
    class Retrieval(Again):
        def __init__(self) -> None:
            self.higher_is_better = {"recall": True, "rank": False}  # type: ignore[assignment]

        def compute(self) -> dict[str, float]:
            return {"recall": 1.0, "rank": 1.0}

    assert Scores([Retrieval()]).higher_is_better() == {"loss": False, "recall": True, "rank": False}


def test_values_are_plain_numbers() -> None:
    class Numpy(Again):
        def compute(self) -> dict[str, float]:
            return {"a": np.float32(0.5), "b": torch.tensor(2)}  # type: ignore[dict-item]

    assert json.dumps(Scores([Numpy()]).compute()) == '{"loss": NaN, "a": 0.5, "b": 2.0}'
