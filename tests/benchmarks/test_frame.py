"""The frame of the benchmarks, on sides that take no time, each really in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.frame import Measured, Side, Target, Workload
from benchmarks.rounds import ROOT, Outcome, Result

Bench = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Write a module of workloads, measure it with the options, and return the status and the document."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(source: str, *options: str) -> tuple[int, dict[str, Any]]:
        name = f"workloads_{abs(hash(source))}"
        head = "import os\nfrom benchmarks.frame import *\n"
        (tmp_path / f"{name}.py").write_text(head + textwrap.dedent(source))
        status = main(["--module", name, "--json", str(tmp_path / "found.json"), *options])
        return status, json.loads((tmp_path / "found.json").read_text())

    return run


def test_sides_take_turns_each_round_in_fresh_processes(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = f"""
        def side(name, seconds):
            def run(setting):
                assert list(setting.folder.iterdir()) == []
                (setting.folder / "left").write_text("")
                rows = (setting.shared / "rows").read_text()
                with open({str(tmp_path / "turns")!r}, "a") as turns:
                    turns.write(f"{{name}} {{os.getpid()}} {{rows}}\\n")
                return Measured(seconds, {{"rows": 8}}, {{"loss": 2.5}})
            return run

        def prepare(setting):
            (setting.shared / "rows").write_text(setting.data("chats"))

        WORKLOADS = [Workload("w", "Sum", [Side("slow", side("slow", 4.0)), Side("fast", side("fast", 1.0))], "slow",
                              [Target("fast", "speed", at_least=5, sizes=("small",)),
                               Target("fast", "rows/s", at_least=3.5, sizes=("small",)),
                               Target("fast", "speed", at_least=2)], prepare)]
        """
    status, found = bench(source, "--rounds", "2", "--chats", "no-such-folder")
    assert status == 0
    turns = [line.split() for line in (tmp_path / "turns").read_text().splitlines()]
    assert [turn[0] for turn in turns] == ["slow", "fast", "slow", "fast"]
    assert len({turn[1] for turn in turns}) == 4
    assert {turn[2] for turn in turns} == {"no-such-folder"}
    [workload] = found["workloads"]
    assert [one["seconds"] for one in workload["sides"]["slow"]["rounds"]] == [4.0, 4.0]
    assert workload["sides"]["fast"]["rounds"][0]["quality"] == {"loss": 2.5}
    assert [target["met"] for target in workload["targets"]] == [False, True, None]
    assert found["rounds"] == 2
    assert found["environment"]["packages"]["torch"]
    shown = capsys.readouterr().out
    assert "4.00x" in shown
    assert "MISSED: 4" in shown
    assert "judged at size full; here 4" in shown


def test_a_side_that_fails_is_shown_and_the_others_go_on(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        def broken(setting):
            raise ValueError("no such weights")

        def whole(setting):
            return Measured(1.0)

        WORKLOADS = [Workload("w", "Sum", [Side("broken", broken), Side("whole", whole)], "broken",
                              [Target("whole", "speed", at_least=1, sizes=("small",))])]
        """
    status, found = bench(source)
    assert status == 1
    sides = found["workloads"][0]["sides"]
    assert sides["broken"]["error"] == "ValueError: no such weights"
    assert len(sides["whole"]["rounds"]) == 1
    shown = capsys.readouterr().out
    assert "failed: ValueError" in shown
    assert "not measured" in shown


def test_a_peer_that_is_not_installed_is_no_failure(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    source = """
        def never(setting):
            import no_such_peer

        def whole(setting):
            return Measured(1.0)

        WORKLOADS = [Workload("w", "Sum", [Side("peer", never, needs=("no_such_peer",)), Side("ours", whole)], "peer")]
        """
    status, found = bench(source)
    assert status == 0
    assert found["workloads"][0]["sides"]["peer"]["missing"] == "no_such_peer"
    assert "not installed" in capsys.readouterr().out


def test_a_preparation_that_fails_fails_every_side(bench: Bench) -> None:
    source = """
        def prepare(setting):
            raise OSError("disk full")

        WORKLOADS = [Workload("w", "Sum", [Side("ours", lambda setting: Measured(1.0))], "ours", prepare=prepare)]
        """
    status, found = bench(source)
    assert status == 1
    assert found["workloads"][0]["sides"]["ours"]["error"] == "OSError: disk full"


def test_a_name_that_no_workload_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nothing"]) == 2
    assert "no workload named nothing" in capsys.readouterr().err


BLOCK = """
from benchmarks.frame import MIB, measuring

held = bytearray(64 * MIB)
held[::4096] = b"1" * len(held[::4096])
del held
with measuring() as meter:
    block = bytearray(32 * MIB)
    block[::4096] = b"1" * len(block[::4096])
measured = meter.measured({"rows": 10})
assert measured.value("rows/s") == 10 / measured.seconds
print(measured.value("grown_mb"))
"""


def test_what_is_measured_is_the_block() -> None:
    """In a process of its own, as sides are."""
    shown = subprocess.run(
        [sys.executable, "-c", BLOCK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 30 < float(shown.stdout) < 40


def test_ratios_are_of_rounds_that_belong_together() -> None:
    def nothing(_: Any) -> Measured:
        return Measured(1.0)

    sides = [Side("a", nothing), Side("b", nothing)]
    workload = Workload("w", "Sum", sides, baseline="a")
    outcomes = {
        "a": Outcome(sides[0], [Measured(2.0, quality={"wer": 0.4}), Measured(8.0, quality={"wer": 0.2})]),
        "b": Outcome(sides[1], [Measured(1.0, quality={"wer": 0.2}), Measured(2.0, quality={"wer": 0.2})]),
    }
    result = Result(workload, outcomes)
    assert result.ratio(Target("b", "speed", at_least=2)) == 3.0  # of 2 and 4
    assert result.ratio(Target("b", "wer", at_most=1)) == 0.75
    assert result.ratio(Target("b", "wer", at_most=1, alone=True)) == 0.2
    assert Target("b", "speed", at_least=2.5).text("a") == "b: speed >= 2.5 x a"
