"""Csv and JSON-lines files: text survives exactly, faults name the row, memory stays flat."""

import csv
import io
import json
import os
import pickle
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.data.files import CsvFile, JsonLines
from toolkit.errors import DataError

# What csv and JSON can hold: any text but half characters.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tricky = st.sampled_from(
    ["NA", "null", "1e5", "007", "no", "", " ", '"', '""', "a\nb", "a\r\nb", "\r", ",", "ü\u2028"]
)
cells = st.one_of(text, tricky)


def rows_of(source: CsvFile | JsonLines) -> list[dict[str, object]]:
    return [source.row(index) for index in range(len(source))]


def fault_of(source: CsvFile | JsonLines, index: int) -> DataError:
    with pytest.raises(DataError) as caught:
        source.row(index)
    return caught.value


@settings(max_examples=80, deadline=None)
@given(
    table=st.lists(st.tuples(cells, cells), max_size=6),
    # Python's writer leaves "\r" bare where lines end in "\n" and it quotes no more than it must.
    form=st.sampled_from([("\r\n", csv.QUOTE_MINIMAL), ("\r\n", csv.QUOTE_ALL), ("\n", csv.QUOTE_ALL)]),
    bom=st.booleans(),
)
def test_csv_text_survives_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[tuple[str, str]],
    form: tuple[str, int],
    bom: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.csv"
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=form[0], quoting=form[1])
    writer.writerows([("first", "second"), *table])
    path.write_bytes(b"\xef\xbb\xbf" * bom + out.getvalue().encode())

    source = CsvFile.open(path, "round_trip.csv")

    assert source.columns == ("first", "second")
    assert rows_of(source) == [{"first": first, "second": second} for first, second in table]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | cells,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(text, below, max_size=3),
    max_leaves=6,
)


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.dictionaries(text, json_values, max_size=4), max_size=5), ascii=st.booleans())
def test_json_survives_exactly(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], ascii: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows), encoding="utf-8")
    assert rows_of(JsonLines.open(path, "round_trip.jsonl")) == rows


def test_csv_cells_are_never_guessed(write) -> None:
    source = CsvFile.open(write("a.csv", "text,n\n007,1e5\nno,NA\n,null\n"), "a.csv")
    assert rows_of(source) == [
        {"text": "007", "n": "1e5"},
        {"text": "no", "n": "NA"},
        {"text": "", "n": "null"},
    ]


def test_csv_short_rows_lack_their_last_cells_and_long_ones_are_refused(write) -> None:
    source = CsvFile.open(write("a.csv", "a,b,c\n1\n1,2,3\n\nhello, world, again, and more\n"), "a.csv")
    assert len(source) == 3
    assert source.row(0) == {"a": "1", "b": None, "c": None}
    assert source.row(1) == {"a": "1", "b": "2", "c": "3"}
    assert fault_of(source, 2).message == "a.csv, row 3: 4 cells under a header of 3 columns"


def test_csv_columns_without_a_name_are_left_out_and_names_are_trimmed(write) -> None:
    source = CsvFile.open(write("a.csv", ", file_name ,text,\n0,a.wav,hello,\n"), "a.csv")
    assert source.columns == ("file_name", "text")
    assert source.row(0) == {"file_name": "a.wav", "text": "hello"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv is empty"),
        ("\n\n", "a.csv is empty"),
        ("text,text\n1,2\n", "a.csv: column 'text' stands twice in the header"),
        ("text\n1\n".encode("utf-16"), "a.csv, header: is not text in UTF-8"),
    ],
)
def test_a_csv_file_without_a_usable_header_is_refused(write, content: str | bytes, message: str) -> None:
    path = write("a.csv", content)
    with pytest.raises(DataError) as caught:
        CsvFile.open(path, "a.csv")
    assert caught.value.message == message


def test_one_row_in_another_encoding_spoils_no_other(write) -> None:
    source = CsvFile.open(
        write("t/a.csv", "text\none\ngrün\n".encode("latin-1") + "grün\n".encode()), "t/a.csv"
    )
    assert fault_of(source, 1).message == "t/a.csv, row 2: is not text in UTF-8"
    assert fault_of(source, 1).hint == "save t/a.csv in UTF-8"
    assert [source.row(0), source.row(2)] == [{"text": "one"}, {"text": "grün"}]


def test_bad_quotes_are_the_fault_of_their_row(write) -> None:
    source = CsvFile.open(write("a.csv", 'text,n\n"he "said" it",1\nfine,2\n5" disk,3\n'), "a.csv")
    assert fault_of(source, 0).message.startswith("a.csv, row 1: is not comma-separated text: ")
    assert source.row(1) == {"text": "fine", "n": "2"}
    assert source.row(2) == {"text": '5" disk', "n": "3"}


def test_an_open_quote_is_a_fault_not_a_long_text(write) -> None:
    source = CsvFile.open(write("a.csv", 'text\nfine\n"open\nnext\n'), "a.csv")
    assert len(source) == 2
    assert source.row(0) == {"text": "fine"}
    assert "unexpected end of data" in fault_of(source, 1).message


def test_a_cell_beyond_the_limit_of_csv_says_what_to_do(write) -> None:
    source = CsvFile.open(write("a.csv", 'text\n"' + "é" * 131_073 + '"\nfine\n'), "a.csv")
    assert fault_of(source, 0).hint == "a quote may be open; give longer texts as .jsonl or .parquet"
    assert source.row(len(source) - 1) == {"text": "fine"}


def test_a_broken_line_of_json_is_named_by_its_number_in_the_file(write) -> None:
    content = '\ufeff{"a": 1}\n\n{"a": \n  \n[1]\n{"a": 4}\n'
    source = JsonLines.open(write("train.jsonl", content), "train.jsonl")
    assert len(source) == 4
    assert source.row(0) == {"a": 1}
    assert fault_of(source, 1).message == "train.jsonl, line 3: is not JSON: Expecting value, column 6"
    assert fault_of(source, 2).message == "train.jsonl, line 5: expected an object, found [1]"
    assert source.row(3) == {"a": 4}
    assert source.place(3) == "train.jsonl, line 6"
    assert fault_of(source, 1).hint == "expected one JSON object a line"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (r'{"a": "\ud83d"}', "holds half a character"),
        (r'{"\uD83D": 1}', "holds half a character"),
        ("[" * 100_000, "cannot be read: "),
        ('{"a": ' + "9" * 5000 + "}", "cannot be read: Exceeds the limit"),
        (b'{"a": "\xfc"}', "is not text in UTF-8"),
    ],
)
def test_lines_that_no_plugin_could_use_are_faults(write, line: str | bytes, message: str) -> None:
    first = b'{"a": "\\ud83d\\ude00"}\n'
    path = write("a.jsonl", first + (line.encode() if isinstance(line, str) else line))
    source = JsonLines.open(path, "a.jsonl")
    assert source.row(0) == {"a": "😀"}
    assert fault_of(source, 1).message.startswith(f"a.jsonl, line 2: {message}")


def test_a_line_nested_to_the_limit_is_read_or_a_fault(write) -> None:
    """Writing takes more of Python's stack than reading: some lines can be read only."""
    lines = ['{"a": "\\ud83d\\ude00", "b": ' + "[" * depth + "]" * depth + "}" for depth in range(800, 1000)]
    source = JsonLines.open(write("a.jsonl", "\n".join(lines)), "a.jsonl")
    assert source.row(0)["a"] == "😀"
    for index in range(len(source)):
        with suppress(DataError):
            source.row(index)
    assert "cannot be read: " in fault_of(source, 199).message


def test_a_json_list_is_refused_with_what_to_do(write) -> None:
    path = write("train.json", '\n [{"a": 1},\n {"a": 2}]')
    with pytest.raises(DataError, match=r"^train\.json: holds a JSON list") as caught:
        JsonLines.open(path, "train.json")
    assert caught.value.hint == "rewrite it: jq -c '.[]' train.json > train.jsonl"


def test_columns_of_json_lines_are_those_of_the_first_hundred_good_rows(write) -> None:
    rows = ["{", '{"b": 1}', *['{"a": 1}'] * 98, '{"c": 1}', '{"late": 1}']
    assert JsonLines.open(write("a.jsonl", "\n".join(rows)), "a.jsonl").columns == ("b", "a", "c")


def test_a_file_with_no_good_row_says_what_is_wrong_with_the_first(write) -> None:
    source = JsonLines.open(write("a.jsonl", '{\n "a": 1\n}\n'), "a.jsonl")
    with pytest.raises(DataError, match=r"^a\.jsonl, line 1: is not JSON"):
        _ = source.columns


def test_a_file_that_changes_is_noticed(write) -> None:
    path = write("a.csv", "text\nhello\n")
    source = CsvFile.open(path, "a.csv")
    path.write_text("text\nhellooo\n")
    assert fault_of(source, 0).message == "a.csv: has changed since it was opened"
    path.unlink()
    assert fault_of(source, 0).message == "a.csv: cannot be read: No such file or directory"


def test_a_file_written_in_place_with_the_same_size_is_noticed(write) -> None:
    path = write("a.jsonl", '{"a": 1}\n')
    source = JsonLines.open(path, "a.jsonl")
    path.write_text('{"a": 2}\n')
    os.utime(path, ns=(1, 1))
    assert "has changed" in fault_of(source, 0).message


def test_files_travel_to_workers(write) -> None:
    source = CsvFile.open(write("a.csv", "text\nhello\n"), "a.csv")
    lines = JsonLines.open(write("a.jsonl", '{"a": 1}\n'), "a.jsonl")
    assert lines.columns == ("a",)
    assert rows_of(pickle.loads(pickle.dumps(source))) == [{"text": "hello"}]
    assert rows_of(pickle.loads(pickle.dumps(lines))) == [{"a": 1}]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_line_without_end_is_never_held(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.data.files.MOST_BYTES", 10_000, raising=False)
    header, line = {"csv": (b"a\n", b"1\n"), "jsonl": (b"", b'{"a": "1"}\n')}[suffix]
    path = tmp_path / f"long.{suffix}"
    with path.open("wb") as file:
        file.write(header + line)
        file.seek(8_000_000, os.SEEK_CUR)
        file.write(b"\n" + line)

    tracemalloc.start()
    source = {"csv": CsvFile, "jsonl": JsonLines}[suffix].open(path, path.name)
    fault = fault_of(source, 1)
    contents = sum(map(len, source.contents(range(3))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert fault.message == f"{source.place(1)}: has 8,000,001 bytes, more than 10,000"
    assert [len(source), source.row(0), source.row(2)] == [3, {"a": "1"}, {"a": "1"}]
    assert contents < 11_000
    assert peak < 1_000_000


def test_a_csv_file_of_many_columns_opens_at_once(write) -> None:
    names = [f"c{number}" for number in range(60_000)]
    started = time.monotonic()
    assert len(CsvFile.open(write("a.csv", ",".join(names) + "\n"), "a.csv").columns) == 60_000
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_memory_does_not_grow_with_the_data(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"big.{suffix}"
    header, line = {"csv": ("text\n", "x" * 1000 + "\n"), "jsonl": ("", '{"text": "' + "x" * 1000 + '"}\n')}[
        suffix
    ]
    with path.open("w") as file:
        file.write(header)
        file.writelines(line for _ in range(20_000))  # 20 MB
    source_type = {"csv": CsvFile, "jsonl": JsonLines}[suffix]

    tracemalloc.start()
    source = source_type.open(path, path.name)
    total = sum(len(source.row(index)["text"]) for index in range(0, len(source), 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert total == 1000 * 1000
    assert peak < 1_000_000
