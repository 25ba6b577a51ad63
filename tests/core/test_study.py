"""What is tried next, and what is not gone on with."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from toolkit import RecipeError
from toolkit.space import parse_space
from toolkit.study import Trial, as_optuna, best_of, is_hopeless, ranked, suggest

SPACE = parse_space({
    "train.learning_rate": "1e-5..1e-3:log", "train.weight_decay": "0.0..0.5", "adapter.r": "4,8,16",
    "train.num_train_epochs": "1..5", "whisper.language": "en,null",
})  # fmt: skip


def tried(
    count: int, score: Callable[[Mapping[str, Any]], float], seed: int = 0, higher: bool = False
) -> list[Trial]:
    trials: list[Trial] = []
    for number in range(count):
        values = suggest(SPACE, trials, seed, higher)
        assert values is not None
        trials.append(Trial(number, values, "finished", score(values)))
    return trials


def test_suggestions_lie_in_the_space() -> None:
    for trial in tried(30, lambda values: 0.0):
        values = trial.values
        assert list(values) == list(SPACE)
        assert 1e-5 <= values["train.learning_rate"] <= 1e-3
        assert values["train.learning_rate"] == float(f"{values['train.learning_rate']:.4g}")
        assert isinstance(values["train.num_train_epochs"], int)
        assert 1 <= values["train.num_train_epochs"] <= 5
        assert values["adapter.r"] in (4, 8, 16)
        assert values["whisper.language"] in ("en", None)


def test_by_powers_each_decade_has_its_share() -> None:
    firsts = [suggest(SPACE, [], seed, False) or {} for seed in range(40)]
    assert 12 <= sum(values["train.learning_rate"] < 1e-4 for values in firsts) <= 28
    assert sum(values["train.weight_decay"] < 0.05 for values in firsts) <= 8


def test_the_same_seed_suggests_the_same_however_often_it_was_interrupted() -> None:
    def score(values: Mapping[str, Any]) -> float:
        return float(values["train.learning_rate"])

    whole = tried(14, score)
    assert suggest(SPACE, whole[:11], 0, False) == whole[11].values
    assert tried(14, score) == whole
    assert tried(14, score, seed=1) != whole


@pytest.mark.parametrize("higher", [False, True])
def test_what_was_good_is_tried_more(higher: bool) -> None:
    """After ten at random, most of what is tried has the better rank, and it is a rate nearer to the best."""

    def score(values: Mapping[str, Any]) -> float:
        badness = abs(math.log(values["train.learning_rate"] / 1e-4)) + 3 * (values["adapter.r"] != 8)
        return -badness if higher else badness

    trials = tried(40, score, higher=higher)
    assert sum(trial.values["adapter.r"] == 8 for trial in trials[10:]) >= 18
    best = best_of(trials, higher)
    assert best is not None
    assert abs(best.score or 0) < 0.2


def test_nothing_is_tried_twice_and_all_of_a_small_space_is() -> None:
    space = parse_space({"a": "1..3", "b": "x,y"})
    trials: list[Trial] = []
    for number in range(6):
        values = suggest(space, trials, 7, False)
        assert values is not None
        trials.append(Trial(number, values, "failed", reason="no matter"))
    assert suggest(space, trials, 7, False) is None
    assert {(one.values["a"], one.values["b"]) for one in trials} == {(a, b) for a in (1, 2, 3) for b in "xy"}


def test_where_trials_failed_is_avoided() -> None:
    trials: list[Trial] = []
    for number in range(30):
        values = suggest(SPACE, trials, 0, False)
        assert values is not None
        failed = values["adapter.r"] == 16
        score = None if failed else values["train.learning_rate"]
        trials.append(Trial(number, values, "failed" if failed else "finished", score))
    assert sum(trial.status == "failed" for trial in trials[15:]) <= 2


def others(curves: list[list[float | None]]) -> list[Trial]:
    return [Trial(place, {}, "finished", curve[-1], curve) for place, curve in enumerate(curves)]


CURVES: list[list[float | None]] = [
    [0.5, 0.4, 0.3],
    [0.6, 0.4, 0.3],
    [0.7, 0.5, 0.3],
    [0.8, 0.6, 0.3],
    [0.9, 0.7, 0.3],
]


@pytest.mark.parametrize(
    ("curve", "higher", "expected"),
    [
        ([0.71], False, True),
        ([0.69], False, False),
        ([0.8, 0.49], False, False),
        ([0.8, 0.51], False, True),
        ([0.4, 0.9], False, False),  # the best so far counts
        ([0.8, 0.5, 9.9], False, False),  # there is nothing to save at the last
        ([0.69], True, True),
        ([0.71], True, False),
        ([None], False, True),
        ([], False, False),
    ],
)
def test_what_is_worse_than_the_median_is_ended(
    curve: list[float | None], higher: bool, expected: bool
) -> None:
    assert is_hopeless(others(CURVES), curve, higher) is expected


def test_nothing_is_ended_before_five_have_finished() -> None:
    for curve in ([9.0], [None]):
        assert not is_hopeless(others(CURVES[:4]), curve, False)
        assert not is_hopeless([], curve, False)
    pruned = [*others(CURVES[:4]), Trial(9, {}, "pruned", curve=[0.1, 0.1]), Trial(10, {}, "failed")]
    assert not is_hopeless(pruned, [9.0], False)


def test_the_best_first_of_those_that_finished() -> None:
    trials = [
        Trial(1, {}, "finished", 0.5), Trial(2, {}, "pruned", curve=[0.1]), Trial(3, {}, "finished", 0.2),
        Trial(4, {}, "failed", reason="x"), Trial(5, {}, "finished", 0.2), Trial(6, {}, "finished", 0.0),
    ]  # fmt: skip
    assert [trial.number for trial in ranked(trials, False)] == [6, 3, 5, 1]
    assert [trial.number for trial in ranked(trials, True)] == [1, 3, 5, 6]
    assert best_of(trials[1:2], False) is None


def test_as_a_study_of_optunas() -> None:
    finished = tried(6, lambda values: values["train.weight_decay"])
    trials = [*finished, Trial(6, finished[0].values, "failed")]
    study = as_optuna(trials, SPACE, False)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert study.best_value == min(trial.score for trial in trials[:6] if trial.score is not None)
    assert study.best_params["train.weight_decay"] == study.best_value


def test_without_optuna(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(RecipeError) as caught:
        suggest(SPACE, [], 0, False)
    assert (caught.value.message, caught.value.hint) == (
        "a search needs optuna", "pip install optuna"
    )  # fmt: skip
