"""`--trace-hooks`: who answers each hook, in order, and what."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Install
from tests.core import tiny
from toolkit import Recipe, runs
from toolkit.cli import main
from toolkit.plugins import Plugins
from toolkit.trace import short, trace_hooks

ADDS = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_augment():
        return lambda row, generator: row

    @hookimpl
    def toolkit_metrics():
        return None

    @hookimpl
    def toolkit_run_finished(run):
        raise ValueError("no room")
"""


@pytest.fixture
def recipe(install: Install, in_tmp: Path) -> str:
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": tiny.PLUGIN})
    install("toolkit-adds", version="2", plugins={"adds": "toolkit_adds"}, modules={"toolkit_adds": ADDS})
    Path("rows.jsonl").write_text("\n".join(f'{{"ids": {row["ids"]}}}' for row in tiny.rows(12)))
    train = {"max_steps": 1, "report_to": "none"}
    Recipe("mine", plugins=["tiny", "adds"], model="tiny", data="rows.jsonl", train=train).dump("mine.yaml")
    return "mine.yaml"


def traced(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("hook")]


def test_a_run_tells_each_call_in_order(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", recipe, "--trace-hooks", "--output-dir", "first"]) == 0
    lines = [line.partition(" (")[0] if "order" not in line else line for line in traced(capsys)]
    assert lines[0] == "hooks are asked in this order: tiny (toolkit-tiny 0.1), adds (toolkit-adds 2)"
    assert lines[1] == "hook toolkit_settings: tiny -> toolkit_tiny.TinySettings"
    expected = [
        "hook toolkit_model: tiny -> toolkit_tiny.toolkit_model.<locals>.load",
        "hook toolkit_prepare: tiny -> toolkit_tiny.toolkit_prepare.<locals>.prepare",
        "hook toolkit_augment: adds -> toolkit_adds.toolkit_augment.<locals>.<lambda>",
        "hook toolkit_loss: tiny -> toolkit_tiny.toolkit_loss.<locals>.loss",
        "hook toolkit_step: no plugin answers",
        "hook toolkit_metrics: tiny -> [toolkit_tiny.Accuracy]",
        "hook toolkit_metrics: adds -> None",
        "hook toolkit_run_finished: adds -> raises ValueError('no room')",
    ]
    places = [lines.index(line) for line in expected]
    assert places == sorted(places)
    for command in (["check", recipe], ["eval", "first"], ["predict", "first", "3 4"], ["resume", "first"]):
        assert main([*command, "--trace-hooks"]) == 0
        assert traced(capsys)[1] == lines[1], command


def test_it_is_off_unless_it_is_asked_for(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with trace_hooks():
        Plugins(Recipe.load(recipe)).loss()
    assert len(traced(capsys)) > 2
    assert main(["run", recipe, "--output-dir", "first"]) == 0
    assert traced(capsys) == []


def test_what_is_traced_costs_nothing_else(recipe: str) -> None:
    plain = runs.run(recipe, "plain").summary
    with trace_hooks():
        told = runs.run(recipe, "told").summary
    assert told["after"] == plain["after"]


class Odd:
    def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (Odd, f"{__name__}.Odd"),
        (Odd(), f"{__name__}.Odd"),
        (functools.partial(Odd(), 1), f"partial of {__name__}.Odd"),
        ([Odd(), 3], f"[{__name__}.Odd, 3]"),
        ([], "[]"),
        ("a\nb", r"'a\nb'"),
        ("x" * 500, "'" + "x" * 98 + "…"),
    ],
)
def test_answers_are_shown_on_one_short_line(value: Any, text: str) -> None:
    assert short(value) == text
