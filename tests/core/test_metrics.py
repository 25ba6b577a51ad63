from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from toolkit import Loss, Metric, PluginError, Scored
from toolkit.metrics import LossMetric, Scores


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


class Again(Metric):
    higher_is_better = True

    def update(self, scored: Scored) -> None: ...

    def merge(self, other: Again) -> None: ...

    def compute(self) -> dict[str, float]:
        return {"loss": 0.0}


def test_two_metrics_of_one_name_are_refused() -> None:
    with pytest.raises(PluginError, match="two metrics are named 'loss'"):
        Scores([Again()]).compute()


def test_each_name_knows_its_direction() -> None:
    class Accuracy(Again):
        def compute(self) -> dict[str, float]:
            return {"accuracy": 1.0}

    assert Scores([Accuracy()]).higher_is_better() == {"loss": False, "accuracy": True}


def test_values_are_plain_numbers() -> None:
    class Numpy(Again):
        def compute(self) -> dict[str, float]:
            return {"a": np.float32(0.5), "b": torch.tensor(2)}  # type: ignore[dict-item]

    assert json.dumps(Scores([Numpy()]).compute()) == '{"loss": NaN, "a": 0.5, "b": 2.0}'
