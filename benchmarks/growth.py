"""What grows with the number of rows, and what must not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Size, Target, Workload, measuring, succeed

BOTH: tuple[Size, ...] = ("small", "full")
FEW, MANY_SMALL, MANY = 1_000, 10_000, 100_000
KINDS = ("jsonl", "csv", "parquet")


def _many(setting: Setting) -> int:
    return MANY_SMALL if setting.small else MANY


def _row(number: int) -> dict[str, str]:
    return {"prompt": f"What is number {number}?", "completion": f"It is {number} and no other. " * 4}


def _write(kind: str) -> Callable[[Setting], None]:
    """Two folders with a table of training rows each, and few rows to validate on."""

    def prepare(setting: Setting) -> None:
        from datasets import Dataset

        for name, count in (("few", FEW), ("many", _many(setting))):
            folder = setting.shared / name
            folder.mkdir()
            rows: Any = Dataset.from_dict(_columns(count))
            writer = {"jsonl": rows.to_json, "csv": rows.to_csv, "parquet": rows.to_parquet}[kind]
            writer(str(folder / f"train.{kind}"))
            lines = [json.dumps(_row(number)) for number in range(16)]
            (folder / "validation.jsonl").write_text("\n".join(lines) + "\n")

    return prepare


def _columns(count: int) -> dict[str, list[str]]:
    rows = [_row(number) for number in range(count)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _run(name: str) -> Callable[[Setting], Measured]:
    """`toolkit run` for two steps, with the rows ordered by length, which looks at each of them."""

    def run(setting: Setting) -> Measured:
        settings = ("eval.before=false", "train.max_steps=2", "train.eval_strategy=no", "train.do_eval=false",
                    f"cache.dir={setting.folder / 'cache'}")  # fmt: skip
        command = ["run", "--task", "causal-lm", "--data", str(setting.shared / name), "--output-dir",
                   str(setting.folder / "run")]  # fmt: skip
        command += [part for one in settings for part in ("--set", one)]
        return _timed(command, _rows(setting, name))

    return run


def _check(name: str) -> Callable[[Setting], Measured]:
    def run(setting: Setting) -> Measured:
        command = ["check", "--task", "causal-lm", "--data", str(setting.shared / name)]
        return _timed(command, _rows(setting, name))

    return run


def _rows(setting: Setting, name: str) -> int:
    return FEW if name == "few" else _many(setting)


def _timed(command: list[str], rows: int) -> Measured:
    with measuring() as meter:
        succeed([sys.executable, "-m", "toolkit", *command])
    return meter.measured({"rows": rows})


def _workload(what: str, kind: str, side: Callable[[str], Callable[[Setting], Measured]]) -> Workload:
    return Workload(
        f"{what}-{kind}",
        f"`toolkit {what}` on {FEW} rows of a {kind} file and on {MANY} ({MANY_SMALL} when small)",
        sides=[Side("few", side("few")), Side("many", side("many"))],
        baseline="few",
        targets=[Target("many", "peak_mb", at_most=1.1, sizes=BOTH)],
        prepare=_write(kind),
        sizes=BOTH if kind == "jsonl" else ("full",),
    )


WORKLOADS = [
    *(_workload("run", kind, _run) for kind in KINDS),
    *(_workload("check", kind, _check) for kind in KINDS),
]
