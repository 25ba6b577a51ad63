"""Fingerprints: equal for the same data anywhere, different for other data, and nothing large is read."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pyarrow
import pytest
from datasets import Dataset, Features, Image, Value

from toolkit.data.fingerprint import fingerprint
from toolkit.data.objects import data_from_objects
from toolkit.data.sources import open_splits
from toolkit.data.splits import limited, with_validation
from toolkit.recipe import DataSpec

Write = Callable[..., Path]


def of(path: Path) -> str:
    return fingerprint(open_splits(DataSpec(source=str(path))))


@pytest.fixture
def folder(tmp_path: Path, write: Write) -> Path:
    write("data/train/a.bin", "11")
    write("data/train/b.bin", "222")
    write("data/train/metadata.csv", "file_name,text\na.bin,one\nb.bin,two\nc.bin,gone\n../../x,out\n")
    write("data/test.jsonl", '{"text": "three"}\n{"tex\n')
    return tmp_path / "data"


def test_a_folder_its_copy_and_a_later_day_agree(folder: Path, tmp_path: Path) -> None:
    before = of(folder)
    copy = shutil.copytree(folder, tmp_path / "elsewhere/copy")
    for path in folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    assert len(before) == 16
    assert before == of(folder) == of(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train/metadata.csv", "file_name,text\na.bin,One\nb.bin,two\nc.bin,gone\n../../x,out\n"),
        ("train/metadata.csv", "file_name,said\na.bin,one\nb.bin,two\nc.bin,gone\n../../x,out\n"),
        ("train/metadata.csv", "file_name,text\nb.bin,two\na.bin,one\nc.bin,gone\n../../x,out\n"),
        ("train/a.bin", "1111"),
        ("train/c.bin", ""),
        ("test.jsonl", '{"text": "Three"}\n{"tex\n'),
        ("validation.jsonl", '{"text": "three"}\n'),
    ],
)
def test_other_data_has_another_fingerprint(folder: Path, name: str, content: str) -> None:
    before = of(folder)
    (folder / name).write_text(content)
    assert of(folder) != before


def test_the_contents_of_media_are_not_read(folder: Path) -> None:
    before = of(folder)
    (folder / "train/a.bin").write_text("99")
    assert of(folder) == before


def test_it_matters_which_file_has_which_size(folder: Path) -> None:
    prints = set()
    for first, second in ((1, 12), (11, 2)):
        (folder / "train/a.bin").write_bytes(b"x" * first)
        (folder / "train/b.bin").write_bytes(b"x" * second)
        prints.add(of(folder))
    assert len(prints) == 2


def test_which_rows_are_used_counts() -> None:
    splits = data_from_objects([{"n": n} for n in range(20)])
    variants = [splits, limited(splits, 5), with_validation(splits, 0.1, 0), with_validation(splits, 0.1, 1)]
    assert len({fingerprint(variant) for variant in variants}) == 4


def dataset(texts: list[str], sizes: list[int]) -> Dataset:
    features = Features({"picture": Image(), "text": Value("string")})
    rows = [
        {"picture": {"bytes": b"x" * size, "path": None}, "text": text}
        for text, size in zip(texts, sizes, strict=True)
    ]
    return Dataset(pyarrow.Table.from_pylist(rows, schema=features.arrow_schema))


def test_datasets_count_by_their_plain_columns_and_the_size_of_the_others(tmp_path: Path) -> None:
    texts, sizes = [str(n) for n in range(1500)], [n % 7 for n in range(1500)]
    given = dataset(texts, sizes)
    given.save_to_disk(tmp_path / "saved")
    before = fingerprint(data_from_objects(given))
    assert before == of(tmp_path / "saved") == of(shutil.copytree(tmp_path / "saved", tmp_path / "copy"))
    assert before != fingerprint(data_from_objects(dataset([*texts[:-1], "x"], sizes)))
    assert before != fingerprint(data_from_objects(dataset(texts, [*sizes[:-1], 100])))
    assert before != fingerprint(data_from_objects(given.select(range(1499, -1, -1))))
    assert fingerprint(data_from_objects(given.select_columns(["picture"]))) != before


def test_bytes_count_alike_however_arrow_keeps_them() -> None:
    kinds = [pyarrow.binary(), pyarrow.large_binary(), pyarrow.binary_view()]
    tables = [pyarrow.table({"picture": pyarrow.array([b"x", b"yy"], kind)}) for kind in kinds]
    assert len({fingerprint(data_from_objects(Dataset(table))) for table in tables}) == 1


def test_lists_count_whole_and_objects_in_them_by_their_kind() -> None:
    def row(**values: object) -> str:
        return fingerprint(data_from_objects([{"a": 1}] * 200 + [values]))

    assert row(a=1) == row(a=1) != row(a=2)
    assert row(a=numpy.int64(1)) == row(a=numpy.int64(1)) != row(a=numpy.int64(2))
    assert row(a=b"ab") == row(a=b"cd") != row(a=b"abc")
    assert row(a=object()) == row(a=object()) != row(a=print)


def test_of_objects_that_compute_rows_a_hundred_are_asked_for() -> None:
    class Computed:
        def __init__(self, size: int) -> None:
            self.size, self.asked = size, 0

        def __len__(self) -> int:
            return self.size

        def __getitem__(self, index: int) -> dict[str, int]:
            self.asked += 1
            return {"n": index}

    computed = Computed(10_050)
    assert fingerprint(data_from_objects(computed)) != fingerprint(data_from_objects(Computed(10_051)))
    assert computed.asked == 100
