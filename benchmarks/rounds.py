"""Run the sides of a workload in turn, each in a process of its own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Target, Workload

ROOT = Path(__file__).parents[1]
PREPARE = "prepare"
"""The name under which a workload's preparation is run, in place of a side's."""


@dataclass
class Outcome:
    """What became of a side over the rounds."""

    side: Side
    rounds: list[Measured] = field(default_factory=list)
    missing: str | None = None
    """A module that it needs and is not installed."""
    error: str | None = None

    def median(self, name: str) -> float | None:
        values = [value for one in self.rounds if (value := one.value(name)) is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Result:
    """What came out of a workload."""

    workload: Workload
    outcomes: Mapping[str, Outcome]
    """By the side's name."""

    @property
    def failed(self) -> bool:
        return any(outcome.error for outcome in self.outcomes.values())

    def ratio(self, target: Target) -> float | None:
        """Median over the rounds; None where one of its sides was not measured."""
        mine = self.outcomes[target.side].rounds
        others = self.outcomes[target.against or self.workload.baseline].rounds
        pairs = [(one, None) for one in mine] if target.alone else zip(mine, others, strict=False)
        ratios = [ratio for one, other in pairs if (ratio := target.ratio(one, other)) is not None]
        return statistics.median(ratios) if ratios else None


@dataclass(frozen=True)
class Plan:
    """How workloads are to be run."""

    setting: Setting
    """Its folders are those of no side yet."""
    rounds: int
    modules: Sequence[str]
    """Where a side's process finds its workload."""


def carry_out(workload: Workload, plan: Plan, say: Callable[[str], None]) -> Result:
    """Prepare the workload, then run its sides in turn, `plan.rounds` times."""
    outcomes = {side.name: Outcome(side, missing=_missing(side)) for side in workload.sides}
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as shared:
        setting = dataclasses.replace(plan.setting, shared=Path(shared))
        if workload.prepare is not None:
            say(f"{workload.name}: preparing")
            _, error = in_process(workload.name, PREPARE, setting, plan.modules)
            if error is not None:
                return Result(
                    workload, {name: Outcome(one.side, error=error) for name, one in outcomes.items()}
                )
        for number in range(plan.rounds):
            for outcome in outcomes.values():
                if outcome.missing is None and outcome.error is None:
                    say(f"{workload.name}: {outcome.side.name}, round {number + 1} of {plan.rounds}")
                    measured, outcome.error = in_process(
                        workload.name, outcome.side.name, setting, plan.modules
                    )
                    outcome.rounds += [measured] if measured is not None else []
    return Result(workload, outcomes)


def in_process(
    workload: str, side: str, setting: Setting, modules: Sequence[str]
) -> tuple[Measured | None, str | None]:
    """Run one side in a fresh process, and return what it measured, or its last line of error."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as place, tempfile.TemporaryFile() as said:
        folder, document = Path(place) / "folder", Path(place) / "measured.json"
        folder.mkdir()
        command = [sys.executable, "-m", "benchmarks", "--side", f"{workload}:{side}"]
        command += [part for module in modules for part in ("--module", module)]
        command += [
            "--setting",
            written(dataclasses.replace(setting, folder=folder)),
            "--json",
            str(document),
        ]
        done = subprocess.run(command, cwd=ROOT, env=_environment(setting), stdout=said, stderr=said)
        if done.returncode == 0:
            found = json.loads(document.read_text())
            return Measured(**found) if found is not None else None, None
        said.seek(0)
        lines = said.read().decode(errors="replace").split("\n")
        return None, next((line for line in reversed(lines) if line.strip()), f"ended with {done.returncode}")


def run_side(workload: Workload, side: str, setting: Setting) -> Measured | None:
    """Run one side in this process; None for the preparation."""
    if side == PREPARE and workload.prepare is not None:
        workload.prepare(setting)
        return None
    return workload.side(side).run(setting)


def written(setting: Setting) -> str:
    return json.dumps(dataclasses.asdict(setting), default=str)


def read(text: str) -> Setting:
    values: dict[str, Any] = json.loads(text)
    return Setting(**{**values, "folder": Path(values["folder"]), "shared": Path(values["shared"])})


def _missing(side: Side) -> str | None:
    return next((name for name in side.needs if importlib.util.find_spec(name) is None), None)


def _environment(setting: Setting) -> dict[str, str]:
    paths = [str(ROOT), *(path for path in sys.path if path)]
    offline = {"HF_HUB_OFFLINE": "1"} if setting.small else {}
    return {
        **os.environ,
        **offline,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "OMP_NUM_THREADS": str(setting.threads),
        "TOKENIZERS_PARALLELISM": "false",
    }
