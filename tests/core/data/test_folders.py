"""Folders: metadata with files beside it, tables by split, saved datasets."""

import json
import struct
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from datasets import Dataset, DatasetDict

from toolkit.data.sources import open_splits
from toolkit.data.splits import Rows
from toolkit.errors import DataError
from toolkit.recipe import DataSpec

Write = Callable[..., Path]


def opened(path: Path) -> dict[str, Rows]:
    return open_splits(DataSpec(source=str(path)))


def fault_of(path: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(path)
    return caught.value


def row_fault(rows: Rows, index: int) -> str:
    with pytest.raises(DataError) as caught:
        rows[index]
    return caught.value.message


def parquet(path: Path, rows: list[dict[str, object]], **types: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


# ---- metadata and the files beside it ------------------------------------------------------------------


def test_a_folder_with_metadata_is_train(tmp_path: Path, write: Write) -> None:
    write("a.bin", "1")
    write("deep/b.bin", "2")
    write("metadata.csv", "file_name,text\na.bin,one\ndeep/b.bin,007\n")
    splits = opened(tmp_path)
    assert list(splits) == ["train"]
    assert list(splits["train"]) == [
        {"file_name": str(tmp_path / "a.bin"), "text": "one"},
        {"file_name": str(tmp_path / "deep/b.bin"), "text": "007"},
    ]


def test_splits_in_folders_by_any_usual_name_and_kind(
    tmp_path: Path, write: Write, datasets_cache: Path
) -> None:
    for name in ("train", "dev", "test"):
        write(f"{name}/a.bin", name)
    write("train/metadata.csv", "file_name\na.bin\n")
    write("dev/metadata.jsonl", '{"file_name": "a.bin", "n": 3}\n')
    parquet(tmp_path / "test/metadata.parquet", [{"file_name": "a.bin", "n": 4}])
    splits = opened(tmp_path)
    assert {name: list(rows) for name, rows in splits.items()} == {
        "train": [{"file_name": str(tmp_path / "train/a.bin")}],
        "validation": [{"file_name": str(tmp_path / "dev/a.bin"), "n": 3}],
        "test": [{"file_name": str(tmp_path / "test/a.bin"), "n": 4}],
    }


def test_the_path_may_be_relative_to_where_one_is(tmp_path: Path, write: Write, monkeypatch) -> None:
    write("data/a.bin")
    write("data/metadata.csv", "file_name\na.bin\n")
    monkeypatch.chdir(tmp_path)
    rows = open_splits(DataSpec(source="data"))["train"]
    monkeypatch.chdir("/")
    assert rows[0] == {"file_name": str(tmp_path / "data/a.bin")}


def test_other_columns_of_files(tmp_path: Path, write: Write) -> None:
    write("a.bin")
    write("b.bin")
    write("metadata.csv", "file_name,mask_file_name\na.bin,b.bin\na.bin,\na.bin,c.bin\n")
    rows = opened(tmp_path)["train"]
    assert rows[0]["mask_file_name"] == str(tmp_path / "b.bin")
    assert rows[1]["mask_file_name"] is None
    assert row_fault(rows, 2) == "metadata.csv, row 3: 'c.bin' does not exist"


def test_a_row_that_names_a_missing_file_is_that_rows_fault(tmp_path: Path, write: Write) -> None:
    names = [f"clip_{number:04d}.wav" for number in range(20)]
    for name in names:
        if name != "clip_0016.wav":
            write(f"train/{name}")
    write("train/metadata.csv", "file_name,text\n" + "".join(f"{name},hello\n" for name in names))
    rows = opened(tmp_path)["train"]
    assert row_fault(rows, 16) == "train/metadata.csv, row 17: 'clip_0016.wav' does not exist"
    assert Path(rows[17]["file_name"]).name == "clip_0017.wav"
    assert rows.columns == ("file_name", "text")


def test_no_row_leads_out_of_the_folder(tmp_path: Path, write: Write) -> None:
    secret = write("secret.bin", "s")
    inside = write("data/inside.bin")
    write("data-too/a.bin")
    (tmp_path / "data/link.bin").symlink_to(secret)
    (tmp_path / "data/folder").symlink_to(tmp_path)
    (tmp_path / "data/good.bin").symlink_to(inside)
    names = ["../secret.bin", str(secret), "link.bin", "folder/secret.bin", "../data-too/a.bin", str(inside)]
    names += ["train/../../secret.bin", "good.bin", "train/../inside.bin"]
    lines = [json.dumps({"file_name": name}) for name in names]
    write("data/metadata.jsonl", "\n".join(lines))
    (tmp_path / "data/train").mkdir()
    rows = opened(tmp_path / "data")["train"]
    for index in range(7):
        assert row_fault(rows, index) == (
            f"metadata.jsonl, line {index + 1}: '{names[index]}' leads out of the data folder"
        )
    assert [Path(row["file_name"]).name for row in rows[7:]] == ["good.bin", "inside.bin"]


def test_a_split_may_name_files_elsewhere_in_the_data_folder(tmp_path: Path, write: Write) -> None:
    write("clips/a.bin")
    write("train/metadata.csv", "file_name\n../clips/a.bin\n")
    [row] = opened(tmp_path)["train"]
    assert Path(row["file_name"]).resolve() == (tmp_path / "clips/a.bin").resolve()


def test_a_data_folder_that_is_itself_a_link(tmp_path: Path, write: Write) -> None:
    write("real/a.bin")
    write("real/metadata.csv", "file_name\na.bin\n")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert opened(tmp_path / "link")["train"][0] == {"file_name": str(tmp_path / "link/a.bin")}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "names no file"),
        ("", "names no file"),
        (3, "expected the name of a file, found 3"),
        (["a.bin"], "expected the name of a file, found ['a.bin']"),
        ("a\0.bin", "expected the name of a file, found 'a\\x00.bin'"),
        ("x" * 5000, f"'{'x' * 5000}' does not exist"),
        (".", "'.' leads out of the data folder"),
        ("sub", "'sub' is no file"),
    ],
)
def test_what_is_no_name_of_a_file(tmp_path: Path, write: Write, value: object, message: str) -> None:
    write("sub/a.bin")
    write("metadata.jsonl", json.dumps({"file_name": value, "other": 1}) + "\n")
    assert row_fault(opened(tmp_path)["train"], 0) == f"metadata.jsonl, line 1: {message}"


def test_a_row_without_its_file_name(tmp_path: Path, write: Write) -> None:
    write("metadata.jsonl", '{"file_name": "a.bin"}\n{"text": "a"}\n')
    write("a.bin")
    rows = opened(tmp_path)["train"]
    assert rows[0] == {"file_name": str(tmp_path / "a.bin")}
    assert row_fault(rows, 1) == "metadata.jsonl, line 2: names no file"


def test_metadata_without_a_column_of_files(tmp_path: Path, write: Write) -> None:
    write("train/metadata.csv", "filename,text\na.wav,hello\n")
    fault = fault_of(tmp_path)
    assert fault.message == "train/metadata.csv: no column 'file_name' (columns: filename, text)"
    assert fault.hint == "rename the column 'filename' to 'file_name'"


# ---- tables by split -----------------------------------------------------------------------------------


def test_tables_by_split_of_every_kind(tmp_path: Path, write: Write, datasets_cache: Path) -> None:
    write("train.jsonl", '{"n": 1}\n{"n": "two"}\n')
    write("valid.CSV", "n\n007\n")
    parquet(tmp_path / "test.parquet", [{"n": 3}])
    splits = opened(tmp_path)
    assert {name: list(rows) for name, rows in splits.items()} == {
        "train": [{"n": 1}, {"n": "two"}],
        "validation": [{"n": "007"}],
        "test": [{"n": 3}],
    }


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "test.jsonl"])
def test_one_file_is_train(write: Write, name: str) -> None:
    splits = opened(write(name, '{"text": "a"}\n'))
    assert {name: list(rows) for name, rows in splits.items()} == {"train": [{"text": "a"}]}
    assert splits["train"].place(0) == f"{name}, line 1"


def test_one_metadata_file_names_the_files_beside_it(tmp_path: Path, write: Write) -> None:
    write("a.bin")
    path = write("metadata.csv", "file_name\na.bin\n../x\n")
    rows = opened(path)["train"]
    assert rows[0] == {"file_name": str(tmp_path / "a.bin")}
    assert "leads out" in row_fault(rows, 1)


def test_a_parquet_file_that_changes_is_read_anew(tmp_path: Path, datasets_cache: Path) -> None:
    path = tmp_path / "train.parquet"
    parquet(path, [{"n": 1}])
    assert list(opened(path)["train"]) == [{"n": 1}]
    parquet(path, [{"n": 2}, {"n": 3}])
    assert list(opened(path)["train"]) == [{"n": 2}, {"n": 3}]


@pytest.mark.parametrize("told", ["[" * 100_000, "[" * 3000 + "]" * 3000])
def test_a_parquet_file_that_says_too_much_of_itself(tmp_path: Path, datasets_cache: Path, told: str) -> None:
    table = pyarrow.table({"n": [1]}).replace_schema_metadata({"huggingface": told})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet: is no parquet file that can be read"):
        opened(tmp_path / "train.parquet")


@pytest.mark.parametrize("name", ["x*", "a[b]", "?", "{a,b}", "**", "hf:", "a#b %20", "[!a]"])
def test_a_name_is_no_pattern(tmp_path: Path, datasets_cache: Path, name: str) -> None:
    for one in ("xa", "a", "b", name):
        parquet(tmp_path / one / f"{one}.parquet", [{"name": one}])
        Dataset.from_list([{"name": one}]).save_to_disk(tmp_path / one / one)
    assert list(opened(tmp_path / name / f"{name}.parquet")["train"]) == [{"name": name}]
    assert list(opened(tmp_path / name / name)["train"]) == [{"name": name}]


def test_a_name_is_no_chain(tmp_path: Path, datasets_cache: Path) -> None:
    """`datasets` would read the file, or the folder, that is called as the first part."""
    for one in ("a.parquet", "a.parquet::b.parquet"):
        parquet(tmp_path / one, [{"name": one}])
    assert fault_of(tmp_path / "a.parquet::b.parquet").message.endswith(
        "cannot be read with '::' in its name"
    )
    for one in ("a", "a::b"):
        Dataset.from_list([{"name": one}]).save_to_disk(tmp_path / "saved")
        (tmp_path / "saved").rename(tmp_path / one)
    assert fault_of(tmp_path / "a::b").hint == "rename the file, or its folder"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", "", "train.jsonl holds no rows"),
        ("train.jsonl", "\n \n", "train.jsonl holds no rows"),
        ("train.csv", "", "train.csv is empty"),
        ("train.csv", "text\n", "train.csv holds no rows"),
        ("train/metadata.csv", "file_name\n", "train/metadata.csv holds no rows"),
        ("train/metadata.jsonl", "", "train/metadata.jsonl holds no rows"),
    ],
)
def test_data_without_rows(tmp_path: Path, write: Write, name: str, content: str, message: str) -> None:
    write(name, content)
    assert fault_of(tmp_path).message == message


def test_parquet_files_that_cannot_be_used(tmp_path: Path, write: Write, datasets_cache: Path) -> None:
    assert fault_of(write("a.parquet", "no parquet")).message.startswith("a.parquet: is no parquet file")
    table = pyarrow.table({"n": pyarrow.array([], pyarrow.int64())})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    assert fault_of(tmp_path / "b.parquet").message == "b.parquet holds no rows"


NO_TEXT = pyarrow.array([b"good", b"\xff\xfe"], pyarrow.binary()).view(pyarrow.string())
SECOND_IS_BAD = pytest.mark.parametrize(
    "values",
    [
        NO_TEXT,
        pyarrow.array([b"good", b"\xff\xfe"], pyarrow.binary_view()).view(pyarrow.string_view()),
        pyarrow.ListArray.from_arrays([0, 1, 2], NO_TEXT),
        pyarrow.array([0, 2**31 - 1], pyarrow.int32()).view(pyarrow.date32()),
        pyarrow.array([0, 2**62], pyarrow.int64()).view(pyarrow.timestamp("us")),
        pyarrow.array([0, 2**62], pyarrow.int64()).view(pyarrow.time64("us")),
    ],
    ids=["text", "view", "texts", "date", "moment", "time"],
)


@SECOND_IS_BAD
def test_a_parquet_row_that_cannot_be_read_is_that_rows_fault(
    tmp_path: Path, datasets_cache: Path, values: object
) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"n": values}), tmp_path / "train.parquet")
    rows = opened(tmp_path)["train"]
    assert rows[0]
    assert row_fault(rows, 1).startswith("train.parquet, row 2: cannot be read: ")
    assert list(rows.source.contents(rows.ids)) == list(rows.source.contents(rows.ids))


@pytest.mark.parametrize(
    ("names", "both"),
    [
        (["train.csv", "train.jsonl"], "train.csv and train.jsonl"),
        (["metadata.csv", "train/metadata.jsonl"], "metadata.csv and train/metadata.jsonl"),
        (["train/metadata.csv", "train/metadata.jsonl"], "train/metadata.csv and train/metadata.jsonl"),
    ],
)
def test_two_tables_for_one_split(tmp_path: Path, write: Write, names: list[str], both: str) -> None:
    for name in names:
        write(name, "file_name\n" if name.endswith("csv") else "{}\n")
    fault = fault_of(tmp_path)
    assert fault.message == f"{tmp_path}: two tables for the split 'train': {both}"
    assert fault.hint == "keep one of them"


# ---- what is no data -----------------------------------------------------------------------------------


def test_a_folder_that_holds_nothing_known(tmp_path: Path, write: Write) -> None:
    for number in range(7):
        write(f"{number}.wav")
    write("train/x.wav")
    fault = fault_of(tmp_path)
    assert fault.message == (
        f"{tmp_path}: holds no data that is recognised (found: 0.wav, 1.wav, 2.wav, 3.wav, 4.wav and 3 more)"
    )
    assert "metadata.csv" in (fault.hint or "")


def test_a_folder_without_tables_that_say_what_is_in_it(tmp_path: Path) -> None:
    assert fault_of(tmp_path).message == f"{tmp_path}: holds no data that is recognised (found: nothing)"
    (tmp_path / "clip.wav").touch()
    (tmp_path / "one.csv").touch()
    (tmp_path / "two.csv").touch()
    assert "then 'clip.wav,what it holds'" in str(fault_of(tmp_path).hint)


def test_a_folder_with_one_table_of_another_name(tmp_path: Path, write: Write) -> None:
    path = write("prompts.csv", "text\na\n")
    assert fault_of(tmp_path).hint == f"name the file itself: {path}"


def test_a_file_of_another_kind(write: Write) -> None:
    path = write("notes.txt", "hello")
    fault = fault_of(path)
    assert fault.message == f"{path}: is no table that can be read"
    assert fault.hint == "expected .csv, .jsonl, .json, .parquet, or a folder"


# ---- saved by `datasets` -------------------------------------------------------------------------------


def test_a_saved_dataset_is_train_and_stays_on_disk(tmp_path: Path) -> None:
    Dataset.from_list([{"text": "a"}, {"text": "b"}]).save_to_disk(tmp_path / "one")
    before = sorted((tmp_path / "one").rglob("*"))
    rows = opened(tmp_path / "one")["train"]
    assert list(rows) == [{"text": "a"}, {"text": "b"}]
    assert rows.source.dataset.cache_files  # type: ignore[attr-defined]
    assert sorted((tmp_path / "one").rglob("*")) == before


def test_saved_splits(tmp_path: Path) -> None:
    one = Dataset.from_list([{"text": "a"}])
    DatasetDict(train=one, dev=one, extra=one).save_to_disk(tmp_path / "many")
    assert list(opened(tmp_path / "many")) == ["train", "validation"]


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
@pytest.mark.parametrize("content", ["{", "null", "[]", "3", "[" * 100_000, b"\xff"])
def test_a_saved_dataset_that_is_broken(
    tmp_path: Path, write: Write, name: str, content: str | bytes
) -> None:
    Dataset.from_list([{"text": "a"}]).save_to_disk(tmp_path / "one")
    write(f"one/{name}", content)
    assert "a saved dataset that cannot be read" in fault_of(tmp_path / "one").message


@pytest.mark.parametrize(
    "change", [{"_split": 3}, {"_data_files": []}, {"_data_files": 3}, {"_format_type": "no"}]
)
def test_a_saved_dataset_in_a_broken_state(tmp_path: Path, write: Write, change: dict[str, object]) -> None:
    Dataset.from_list([{"text": "a"}]).save_to_disk(tmp_path / "one")
    state = json.loads((tmp_path / "one/state.json").read_text())
    write("one/state.json", json.dumps({**state, **change}))
    assert "a saved dataset that cannot be read" in fault_of(tmp_path / "one").message


SAVED = {
    "text": "hello",
    "words": ["good", "bye"],
    "turns": [{"role": "user"}],
    "sound": {"bytes": b"123", "path": "a"},
    "day": date(2020, 1, 1),
    "price": Decimal("1.5"),
}


@pytest.mark.parametrize(
    ("column", "buffer"), [("text", 1), ("words", 1), ("words", 3), ("turns", 1), ("turns", 4), ("sound", 2)]
)
def test_a_saved_dataset_whose_offsets_lead_nowhere(tmp_path: Path, column: str, buffer: int) -> None:
    """Arrow would look for the values there, and the process would end without a word."""
    Dataset.from_list([SAVED] * 200).save_to_disk(tmp_path / "one")
    rows = opened(tmp_path / "one")["train"]
    assert rows[0] == SAVED
    chunk = rows.source.dataset.data.column(column).chunks[0]  # type: ignore[attr-defined]
    offsets = chunk.buffers()[buffer].to_pybytes()
    [arrow] = (tmp_path / "one").glob("*.arrow")
    broken = offsets[:40] + struct.pack("<ii", 0x7FFF0000, 0x7FFF0100) + offsets[48:]
    arrow.write_bytes(arrow.read_bytes().replace(offsets, broken, 1))
    fault = fault_of(tmp_path / "one")
    assert "a saved dataset that cannot be read" in fault.message
    assert fault.hint == "save it again"


@SECOND_IS_BAD
def test_a_saved_row_that_cannot_be_read_is_that_rows_fault(tmp_path: Path, values: object) -> None:
    Dataset(pyarrow.table({"n": values})).save_to_disk(tmp_path / "one")
    rows = opened(tmp_path / "one")["train"]
    assert rows[0]
    assert row_fault(rows, 1).startswith("train, row 2: cannot be read: ")
