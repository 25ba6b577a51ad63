"""What grows with the number of rows, and what must not."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Size, Target, Workload, measuring, succeed

BOTH: tuple[Size, ...] = ("small", "full")
FEW, MANY_SMALL, MANY = 1_000, 10_000, 100_000
TABLES = ("jsonl", "csv", "parquet")


def _many(setting: Setting) -> int:
    return MANY_SMALL if setting.small else MANY


def _row(number: int) -> dict[str, str]:
    return {"prompt": f"What is number {number}?", "completion": f"It is {number} and no other. " * 4}


def _write_table(kind: str) -> Callable[[Setting], None]:
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


def _write_pictures(setting: Setting) -> None:
    """Two folders of pictures with their metadata, a file per row."""
    from PIL import Image

    for name, count in (("few", FEW), ("many", _many(setting))):
        for split, rows in (("train", count), ("validation", 16)):
            folder = setting.shared / name / split
            folder.mkdir(parents=True)
            with (folder / "metadata.jsonl").open("w") as file:
                for number in range(rows):
                    shade = (number % 256, number // 256 % 256, 0)
                    Image.new("RGB", (8, 8), shade).save(folder / f"{number}.png")
                    row = {"file_name": f"{number}.png", "caption": f"The shade {shade}"}
                    file.write(json.dumps(row) + "\n")


def _columns(count: int) -> dict[str, list[str]]:
    rows = [_row(number) for number in range(count)]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _run(name: str, task: str) -> Callable[[Setting], Measured]:
    """`toolkit run` for two steps; texts are ordered by length, for which each of them is looked at."""

    def run(setting: Setting) -> Measured:
        settings = ("eval.before=false", "train.max_steps=2", "train.eval_strategy=no", "train.do_eval=false",
                    f"cache.dir={setting.folder / 'cache'}")  # fmt: skip
        command = ["run", "--task", task, "--data", str(setting.shared / name), "--output-dir",
                   str(setting.folder / "run")]  # fmt: skip
        command += [part for one in settings for part in ("--set", one)]
        return _timed(command, _rows(setting, name))

    return run


def _check(name: str, task: str) -> Callable[[Setting], Measured]:
    def run(setting: Setting) -> Measured:
        command = ["check", "--task", task, "--data", str(setting.shared / name)]
        return _timed(command, _rows(setting, name))

    return run


def _rows(setting: Setting, name: str) -> int:
    return FEW if name == "few" else _many(setting)


def _timed(command: list[str], rows: int) -> Measured:
    with measuring() as meter:
        succeed([sys.executable, "-m", "toolkit", *command])
    return meter.measured({"rows": rows})


def _workload(what: str, kind: str, side: Callable[[str, str], Callable[[Setting], Measured]]) -> Workload:
    task, write = (
        ("causal-lm", _write_table(kind)) if kind in TABLES else ("clip-contrastive", _write_pictures)
    )
    return Workload(
        f"{what}-{kind}",
        f"`toolkit {what}` on {FEW} rows of {kind} and on {MANY} ({MANY_SMALL} when small)",
        sides=[Side("few", side("few", task)), Side("many", side("many", task))],
        baseline="few",
        targets=[
            Target("many", "peak_mb", at_most=1.1, sizes=BOTH),
            Target("many", "rows/s", at_least=1.0, sizes=BOTH),  # a row takes no longer among many
        ],
        prepare=write,
        sizes=BOTH if kind == "jsonl" else ("full",),
    )


WORKLOADS = [
    _workload(what, kind, side)
    for what, side in (("run", _run), ("check", _check))
    for kind in (*TABLES, "pictures")
]
