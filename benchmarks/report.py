"""What is shown of the measurements, and what is kept of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.frame import Setting, Target
from benchmarks.rounds import Outcome, Plan, Result
from toolkit.environment import environment

PEERS = ("trl", "open_clip", "torchvision")
HOW_TO_INSTALL = "not installed: pip install '.[bench]'"


def show(result: Result, setting: Setting, console: Console) -> None:
    """A table of the sides, and below it each target and whether it is met."""
    workload = result.workload
    table = Table(title=f"{workload.name}: {workload.summary}", title_justify="left")
    table.add_column("side")
    for heading in ("seconds (min-max)", "speed", "work per second", "quality", "peak MB", "grown MB"):
        table.add_column(heading, justify="right")
    for outcome in result.outcomes.values():
        table.add_row(outcome.side.name, *_cells(outcome, result))
    console.print(table)
    for target in workload.targets:
        console.print(f"  {verdict(result, target, setting)}", highlight=False)
    console.print()


def verdict(result: Result, target: Target, setting: Setting) -> str:
    ratio = result.ratio(target)
    text = target.text(result.workload.baseline)
    if setting.size not in target.sizes:
        return f"{text}  (judged at size {' and '.join(target.sizes)}{'' if ratio is None else f'; here {ratio:.3g}'})"
    if ratio is None:
        return f"{text}  not measured"
    return f"{text}  {'met' if target.met(ratio) else 'MISSED'}: {ratio:.3g}"


def document(results: list[Result], plan: Plan) -> dict[str, Any]:
    """Everything measured, and on what."""
    setting = plan.setting
    return {
        "schema": 1,
        "size": setting.size,
        "rounds": plan.rounds,
        "seed": setting.seed,
        "threads": setting.threads,
        "models": dict(setting.models),
        "datasets": dict(setting.datasets),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "environment": environment(),
        "peers": {name: _version(name) for name in PEERS if importlib.util.find_spec(name)},
        "workloads": [_described(result, setting) for result in results],
    }


def _version(module: str) -> str:
    [distribution, *_] = metadata.packages_distributions()[module]
    return metadata.version(distribution)


def _described(result: Result, setting: Setting) -> dict[str, Any]:
    return {
        "name": result.workload.name,
        "summary": result.workload.summary,
        "baseline": result.workload.baseline,
        "sides": {name: _recorded(outcome) for name, outcome in result.outcomes.items()},
        "targets": [_judged(result, target, setting) for target in result.workload.targets],
    }


def _recorded(outcome: Outcome) -> dict[str, Any]:
    return {
        "missing": outcome.missing,
        "error": outcome.error,
        "rounds": [dataclasses.asdict(one) for one in outcome.rounds],
    }


def _judged(result: Result, target: Target, setting: Setting) -> dict[str, Any]:
    ratio = result.ratio(target)
    judged = ratio is not None and setting.size in target.sizes
    return {
        "text": target.text(result.workload.baseline),
        "value": ratio,
        "met": target.met(ratio) if judged and ratio is not None else None,
    }


def _cells(outcome: Outcome, result: Result) -> list[str]:
    if outcome.missing is not None:
        return [f"{outcome.missing} {HOW_TO_INSTALL}"]
    if outcome.error is not None:
        return [f"failed: {outcome.error}"]
    first = outcome.rounds[0]
    speed = result.ratio(Target(outcome.side.name, "speed"))
    return [
        _span([one.seconds for one in outcome.rounds], outcome.median("seconds")),
        "" if speed is None else f"{speed:.2f}x",
        "\n".join(f"{outcome.median(f'{unit}/s'):.4g} {unit}" for unit in first.work),
        "\n".join(f"{name} {outcome.median(name):.4g}" for name in first.quality),
        *(
            "" if (value := outcome.median(name)) is None else f"{value:.0f}"
            for name in ("peak_mb", "grown_mb")
        ),
    ]


def _span(values: list[float], median: float | None) -> str:
    return f"{median:.3g}" if len(values) == 1 else f"{median:.3g} ({min(values):.3g}-{max(values):.3g})"


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
