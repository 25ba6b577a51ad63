"""Where a search looks: what is typed, what it stands for, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from toolkit import RecipeError
from toolkit.space import Choice, Range, as_text, changes, parse_space, probes, probes_of_model, size, written


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1e-5..1e-3:log", Range(1e-5, 1e-3, log=True)),
        ("1..5", Range(1, 5)),
        ("4..64:log", Range(4, 64, log=True)),
        ("0..0.5", Range(0.0, 0.5)),
        ("-1.5..2", Range(-1.5, 2.0)),
        (" 0.1 .. 0.2 ", Range(0.1, 0.2)),
        ("4,8, 16", Choice((4, 8, 16))),
        ("en,null", Choice(("en", None))),
        ("yes,no,true", Choice(("yes", "no", True))),
        ("[q_proj],[q_proj,v_proj],all-linear", Choice((["q_proj"], ["q_proj", "v_proj"], "all-linear"))),
        ("[4, 8]", Choice((4, 8))),
        ("../a,../b", Choice(("../a", "../b"))),
        ([4, 8], Choice((4, 8))),
        ((None, {"r": 4}), Choice((None, {"r": 4}))),
    ],
)
def test_what_is_typed(given: Any, expected: Range | Choice) -> None:
    assert parse_space({"adapter.r": given}) == {"adapter.r": expected}
    found = parse_space({"adapter.r": given})
    assert parse_space(written(found)) == found


def test_whole_ends_stay_whole() -> None:
    whole, even = parse_space({"a": "1..5", "b": "1.0..5"}).values()
    assert isinstance(whole, Range)
    assert isinstance(even, Range)
    assert (whole.whole, even.whole) == (True, False)
    assert parse_space(written({"b": even}))["b"].written() == "1.0..5.0"


@pytest.mark.parametrize(
    ("given", "error", "hint"),
    [
        ({}, "no space to search was given", "name one with --space"),
        ({"adapter.r": "8"}, "--space adapter.r: expected a range or at least two choices, found [8]", "--set"),
        ({"adapter.r": ""}, "--space adapter.r: expected a range or at least two choices, found []", "--set"),
        ({"adapter.r": 8}, "--space adapter.r: expected a range or choices, found 8", "for example"),
        ({"adapter.r": "8,8"}, "--space adapter.r: 8 stands twice", "once"),
        ({"adapter.r": "8..8"}, "--space adapter.r: the range is empty, found 8..8", "lower end first"),
        ({"adapter.r": "8..4"}, "--space adapter.r: the range is empty, found 8..4", "lower end first"),
        ({"a": "0..1:log"}, "--space a: a range by powers begins above 0", "leave `:log` out"),
        ({"a": "1..2:lgo"}, "--space a: a range is even, or `:log`, not ':lgo'", "did you mean 'log'?"),
        ({"a": "low..high"}, "--space a: the ends of a range are numbers, found low..high", "commas"),
        ({"a": "true..2"}, "--space a: the ends of a range are numbers", "commas"),
        ({"a": "1...inf"}, "--space a: the ends of a range are numbers", "commas"),
        ({"a": "[1,"}, "--space a, line 1", "write YAML"),
        ({"a..b": "1,2"}, "--space a..b: expected a key of the recipe", "for example"),
        ({"name": "a,b"}, "--space name: is the same in all trials", "better or worse"),
        ({"data.limit": "5,10"}, "--space data.limit: trials with different values would not", "toolkit eval"),
        ({"eval.max_samples": "5,10"}, "--space eval.max_samples: trials with different", "toolkit eval"),
        ({"train.data_seed": "5,10"}, "--space train.data_seed: trials with different", "toolkit eval"),
        ({"train.output_dir": "a,b"}, "--space train.output_dir: is the search's own business", "leave it out"),
        ({"adapter": [None, {}], "adapter.r": "4,8"}, "--space adapter.r: is within 'adapter'", "one of them"),
    ],
)  # fmt: skip
def test_what_is_refused(given: dict[str, Any], error: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_space(given)
    assert caught.value.message.startswith(error)
    assert hint in str(caught.value.hint)
    assert caught.value.more == ()


def test_faults_come_together() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_space({"adapter.r": "8..4", "data": "a,b", "train.learning_rate": "1e-5..1e-3"})
    assert len(caught.value.all) == 2


def test_each_end_and_each_choice_is_probed() -> None:
    space = parse_space({"train.learning_rate": "0.1..0.9", "adapter.r": "4,8,16"})
    found = [tuple(values.values()) for values in probes(space)]
    assert found == [(0.1, 4), (0.9, 4), (0.1, 8), (0.1, 16)]


def test_names_of_modules_are_for_the_model_to_tell() -> None:
    space = parse_space(
        {"adapter.target_modules": "[q],[v],all-linear", "adapter.r": "4,8", "train.optim": "a,b"}
    )
    found = [(values["adapter.target_modules"], values["adapter.r"]) for values in probes_of_model(space)]
    assert found == [(["q"], 4), (["v"], 4), ("all-linear", 4)]


def test_how_many_there_are() -> None:
    assert size(parse_space({"a": "1..5", "b": "x,y"})) == 10
    assert size(parse_space({"a": "1..5", "b": "0.1..0.2"})) is None


def test_values_as_override_takes_them_and_as_they_are_typed() -> None:
    values = {
        "adapter.r": 8,
        "train.learning_rate": 0.00012,
        "adapter.target_modules": ["q_proj"],
        "w.l": None,
    }
    assert changes(values)["adapter"] == {"r": 8, "target_modules": ["q_proj"]}
    assert as_text(values) == (
        'adapter.r=8 train.learning_rate=0.00012 adapter.target_modules=["q_proj"] w.l=null'
    )
