"""What is held of rows does not grow with what is in them, and with their number by some bytes a row."""

from __future__ import annotations

import json
import os
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from toolkit.data.columns import name_columns
from toolkit.data.confined import confined
from toolkit.data.fingerprint import fingerprint
from toolkit.data.folders import folder_splits
from toolkit.data.rows import PreparedRows, Quarantine
from toolkit.data.sampling import EpochSampler, LengthSampler
from toolkit.data.sources import open_splits
from toolkit.data.splits import Rows, with_validation
from toolkit.errors import DataError
from toolkit.recipe import DataSpec
from toolkit.types import Column, Row

FEW, SEVERAL, MANY = 1_000, 5_000, 20_000
FILES = 4
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


@pytest.fixture
def folder(tmp_path: Path) -> Table:
    """Tables that name a few files beside them, as opened for plugins that read these."""

    def write(count: int) -> Rows:
        folder = tmp_path / str(count)
        if not folder.exists():
            folder.mkdir()
            for number in range(FILES):
                Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / f"{number}.png")
            lines = (f"{number % FILES}.png,{text(number)}\n" for number in range(count))
            (folder / "metadata.csv").write_text("file_name,text\n" + "".join(lines))
        return opened(folder, [Column("image", usual=("file_name",), names_file=True), Column("text")])

    return write


@pytest.fixture
def nested(tmp_path: Path) -> Table:
    """Tables whose rows hold two rows each."""

    def write(count: int) -> Rows:
        folder = tmp_path / str(count)
        if not folder.exists():
            folder.mkdir()
            lines = ({"pairs": [{"text": text(one)}, {"text": text(-one)}]} for one in range(count // 2))
            (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return opened(folder, [Column("pairs", holds_rows=True), Column("text")])

    return write


def opened(folder: Path, columns: Sequence[Column]) -> Rows:
    spec = DataSpec(str(folder))
    return confined(name_columns(open_splits(spec), columns, {}), columns, spec)["train"]


def looked_up(rows: Rows) -> object:
    return sum(len(row["text"]) for row in rows)


def prepared(rows: Rows) -> object:
    """The rows of an epoch in order, each with its file read, the way an evaluation goes through them."""

    def prepare(row: Row) -> Row:
        return {**row, "bytes": Path(row["image"]).read_bytes()} if "image" in row else row

    made = PreparedRows("train", rows, rows.ids, prepare)
    return sum(len(fetched.row or ()) for fetched in map(made.__getitem__, range(len(made))))


OPENED: dict[str, tuple[Callable[[Rows], object], int]] = {
    **{name: WORK[name] for name in ("opening", "fingerprint", "validation", "lengths")},
    "looking up": (looked_up, 20),
    "preparing": (prepared, 20),
}


@pytest.mark.parametrize("name", WORK)
def test_bytes_a_row(name: str, table: Table) -> None:
    work, most = WORK[name]
    few, many = peaks(work, table)
    assert (many - few) / (MANY - FEW) < most


@pytest.mark.parametrize("name", OPENED)
def test_bytes_a_row_that_names_files(name: str, folder: Table) -> None:
    work, most = OPENED[name]
    assert bytes_a_row(work, folder) < most


@pytest.mark.parametrize("name", OPENED)
def test_bytes_a_row_that_is_held_by_another(name: str, nested: Table) -> None:
    work, most = OPENED[name]
    assert bytes_a_row(work, nested) < most + (
        32 if name == "fingerprint" else 16
    )  # which it is in, and where


def test_a_bad_row_costs_its_reason() -> None:
    """Nothing of the row is kept, and a row's error is not held on to with all that led to it."""

    def prepare(row: Row) -> Row:
        raise DataError(f"row {row['row_id']}: {row['text'][:40]}")

    def put_aside(count: int) -> int:
        made = PreparedRows("train", LongRows(count), range(count), prepare)
        quarantine = Quarantine({"train": 10 * count}, 1.0)
        tracemalloc.start()
        try:
            for place in range(count):
                quarantine.add(made[place].bad)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    put_aside(SEVERAL)
    assert (put_aside(SEVERAL) - put_aside(FEW)) / (SEVERAL - FEW) < 700


class LongRows(Sequence[Row]):
    """Rows of 5 kB, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: Any) -> Any:
        return {"text": "a" * 5_000}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_do_not_copy_the_data(tmp_path: Path) -> None:
    """Two that go through 5000 rows are no larger than two that go through 1000 rows five times."""
    few, many = (max(in_workers(tmp_path / str(count), count)) for count in (FEW, SEVERAL))
    assert many - few < SEVERAL * KILOBYTES * 1024 / 5


KILOBYTES = 4
"""In a row of these tables."""


def in_workers(folder: Path, count: int) -> list[int]:
    """The proportional set size of each worker, in bytes, once `SEVERAL` rows were read."""
    folder.mkdir()
    with (folder / "train.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"text": f"{number:04d}" * 256 * KILOBYTES}) + "\n")
    rows = opened(folder, [Column("text")])
    made = PreparedRows("train", rows, rows.ids)
    batches = [[place % count for place in range(start, start + 10)] for start in range(0, SEVERAL, 10)]
    sizes = {
        batch["worker"]: batch["size"]
        for batch in DataLoader(made, batch_sampler=batches, num_workers=2, collate_fn=with_own_size)
    }
    assert len(sizes) == 2
    return [*sizes.values()]


def with_own_size(fetched: Sequence[Any]) -> dict[str, int]:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    size = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return {"worker": os.getpid(), "size": size * 1024}


def bytes_a_row(work: Callable[[Rows], object], table: Table) -> float:
    """By the lower of two peaks, for once in a while Python enlarges its own table of interned names."""
    peak(work, table, FEW)
    few, *many = (peak(work, table, count) for count in (FEW, SEVERAL, SEVERAL))
    return (min(many) - few) / (SEVERAL - FEW)


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
