"""What is held of rows does not grow with what is in them, and with their number by some bytes a row."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from toolkit.data.fingerprint import fingerprint
from toolkit.data.folders import folder_splits
from toolkit.data.rows import PreparedRows
from toolkit.data.sampling import EpochSampler, LengthSampler
from toolkit.data.splits import Rows, with_validation

FEW, MANY = 1_000, 20_000
Table = Callable[[int], Rows]


def text(number: int) -> str:
    return f"{number} and a text of some length. " * 10


@pytest.fixture(params=["jsonl", "csv"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Table:
    def write(count: int) -> Rows:
        folder = tmp_path / str(count)
        if not folder.exists():
            folder.mkdir()
            lines = [{"image": f"{number // 2}.png", "text": text(number)} for number in range(count)]
            path = folder / f"train.{request.param}"
            if request.param == "jsonl":
                path.write_text("".join(json.dumps(line) + "\n" for line in lines))
            else:
                path.write_text("image,text\n" + "".join(f"{one['image']},{one['text']}\n" for one in lines))
        return folder_splits(folder)["train"]

    return write


def lengths(rows: Rows) -> object:
    return PreparedRows("train", rows, rows.ids).lengths(lambda row: len(row["text"]))


WORK: dict[str, tuple[Callable[[Rows], object], int]] = {
    "opening": (lambda rows: rows, 20),
    "fingerprint": (lambda rows: fingerprint({"train": rows}), 20),
    "validation": (lambda rows: with_validation({"train": rows}, 0.1, 0), 40),
    "validation together": (lambda rows: with_validation({"train": rows}, 0.1, 0, ["image"]), 100),
    "lengths": (lengths, 25),
    "order": (lambda rows: sum(place for _, place in EpochSampler(len(rows), 0)), 40),
    "order by length": (
        lambda rows: sum(place for _, place in LengthSampler(lengths(rows), 0, 8)),  # type: ignore[arg-type]
        80,
    ),
}
"""Each with the bytes that a row may take at the peak; one number in a list takes about 40."""


@pytest.mark.parametrize("name", WORK)
def test_bytes_a_row(name: str, table: Table) -> None:
    work, most = WORK[name]
    few, many = peaks(work, table)
    assert (many - few) / (MANY - FEW) < most


def peaks(work: Callable[[Rows], object], table: Table) -> tuple[int, int]:
    peak(work, table, FEW)  # what is imported and kept at first use
    return peak(work, table, FEW), peak(work, table, MANY)


def peak(work: Callable[[Rows], object], table: Table, count: int) -> int:
    table(count)
    tracemalloc.start()
    try:
        work(table(count))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
