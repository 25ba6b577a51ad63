"""Tables in text files, read a row at a time: only where each row begins is held in memory, 8 bytes a row."""

from __future__ import annotations

import csv
import json
import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO

from toolkit.data.splits import Source
from toolkit.errors import DataError
from toolkit.types import Row

HEAD = 100
"""How many rows are looked at to learn which columns there are, where nothing else says so."""

MOST_BYTES = 64 << 20
"""Of a row. One that has more cannot be used, and is never held in memory."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, eq=False)
class Records:
    """A text file's records as bytes, by number.

    Attributes:
        name: the file, as errors name it.
        starts: byte offsets at which the records begin, then the size of the file.
        stamp: size and time of change when the offsets were taken.
    """

    path: Path
    name: str
    starts: array[int]
    stamp: tuple[int, int]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def bytes(self, index: int) -> bytes:
        """A record, of one that is too long as much as may be held."""
        # Opened anew each time: a handle would be shared by forked workers, with its position.
        start, end = self.starts[index : index + 2]
        with _opened(self.path, self.name) as file:
            if _stamp(file) != self.stamp:
                raise DataError(f"{self.name}: has changed since it was opened", hint="start again")
            file.seek(start)
            return file.read(min(end - start, MOST_BYTES))

    def text(self, index: int, place: str) -> str:
        """A record's text; `place` names it in an error."""
        length = self.starts[index + 1] - self.starts[index]
        if length > MOST_BYTES:
            raise DataError(
                f"{place}: has {length:,} bytes, more than {MOST_BYTES:,}",
                hint="divide it into several rows, or take it out",
            )
        try:
            return self.bytes(index).decode()
        except UnicodeDecodeError:
            raise DataError(f"{place}: is not text in UTF-8", hint=f"save {self.name} in UTF-8") from None


@dataclass(frozen=True, eq=False)
class CsvFile(Source):
    """Comma-separated values under a header. Every cell is text, exactly as written; an empty one is "".

    A row with fewer cells than the header has None for the rest; one with more cannot be used. Empty lines do
    not count as rows; columns whose name is empty are left out.
    """

    records: Records
    header: tuple[str, ...]

    @classmethod
    def open(cls, path: Path, name: str) -> CsvFile:
        """
        Raises:
            DataError: the file cannot be read, has no header, or a column stands twice in it.
        """
        with _opened(path, name) as file:
            stamp, starts = _stamp(file), _csv_starts(file)
        if len(starts) < 2:
            raise DataError(
                f"{name} is empty", hint="expected a header with the columns' names, then the rows"
            )
        records = Records(path, name, starts, stamp)
        header = [cell.strip() for cell in _cells(records.text(0, f"{name}, header"), f"{name}, header")]
        twice = sorted(cell for cell, count in Counter(header).items() if cell and count > 1)
        if twice:
            raise DataError(
                f"{name}: column '{twice[0]}' stands twice in the header", hint="rename one of them"
            )
        return cls(Records(path, name, starts[1:], stamp), tuple(header))

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.header if name)

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> Row:
        cells = _cells(self.records.text(index, self.place(index)), self.place(index))
        if len(cells) > len(self.header):
            raise DataError(
                f"{self.place(index)}: {len(cells)} cells under a header of {len(self.header)} columns",
                hint="put text that holds commas in double quotes",
            )
        row: Row = dict.fromkeys(self.columns)
        return row | {name: cell for name, cell in zip(self.header, cells, strict=False) if name}

    def place(self, index: int) -> str:
        return f"{self.records.name}, row {index + 1}"

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        yield "\t".join(self.header).encode()
        yield from map(self.records.bytes, ids)


@dataclass(frozen=True, eq=False)
class JsonLines(Source):
    """A file with one JSON object a line, kept as JSON has it; empty lines do not count as rows.

    `blanks`: for each empty line, how many rows stand above it.
    """

    records: Records
    blanks: array[int]

    @classmethod
    def open(cls, path: Path, name: str) -> JsonLines:
        """
        Raises:
            DataError: the file cannot be read, or holds a JSON list.
        """
        with _opened(path, name) as file:
            stamp = _stamp(file)
            if file.read(1 << 16).removeprefix(_BOM).lstrip().startswith(b"["):
                raise DataError(
                    f"{name}: holds a JSON list, not one JSON object a line",
                    hint=_as_lines(path),
                )
            starts, blanks = _line_starts(file)
        return cls(Records(path, name, starts, stamp), blanks)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return columns_seen(self, HEAD)

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int) -> Row:
        text = self.records.text(index, self.place(index)).rstrip()
        try:
            row = json.loads(text)
            is_whole = "\\ud" not in text.lower() or _encodable(row)
        except json.JSONDecodeError as error:
            raise self._fault(index, f"is not JSON: {error.msg}, column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise self._fault(index, f"cannot be read: {error}") from None
        if not isinstance(row, dict):
            raise self._fault(index, f"expected an object, found {text[:40]}")
        if not is_whole:
            raise self._fault(index, "holds half a character (a lone surrogate such as \\ud83d)")
        return row

    def place(self, index: int) -> str:
        return f"{self.records.name}, line {index + 1 + bisect_right(self.blanks, index)}"

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        return map(self.records.bytes, ids)

    def _fault(self, index: int, what: str) -> DataError:
        return DataError(f"{self.place(index)}: {what}", hint="expected one JSON object a line")


def _as_lines(path: Path) -> str:
    """The command that writes a JSON list as one object a line; a file cannot be read from and written to at once."""
    target = f"{path.stem}.jsonl"
    if target != path.name:
        return f"rewrite it: jq -c '.[]' {path.name} > {target}"
    return f"rewrite it: jq -c '.[]' {path.name} > lines && mv lines {target}"


def columns_seen(source: Source, count: int) -> tuple[str, ...]:
    """The columns of the first `count` rows that can be used.

    Raises:
        DataError: the first row's fault, where no row can be used.
    """
    columns: dict[str, None] = {}
    first_fault, used = None, 0
    for index in range(len(source)):
        try:
            columns |= dict.fromkeys(source.row(index))
        except DataError as fault:
            first_fault = first_fault or fault
            continue
        used += 1
        if used == count:
            break
    if first_fault and not used:
        raise first_fault
    return tuple(columns)


def _csv_starts(file: BinaryIO) -> array[int]:
    """Where the records of a csv file begin, header included, then where the last one ends."""
    position = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(position)

    def lines() -> Iterator[str]:
        nonlocal position
        for line, length in _lines(file):
            position += length
            yield line.decode("utf-8", "surrogateescape") if length <= MOST_BYTES else "too long"

    starts = array("Q")
    reader = csv.reader(lines(), strict=True)
    while True:
        start = position
        try:
            if next(reader):
                starts.append(start)
        except csv.Error:  # found again when the row is read
            starts.append(start)
        except StopIteration:
            starts.append(position)
            return starts


def _line_starts(file: BinaryIO) -> tuple[array[int], array[int]]:
    """Where the lines that are not blank begin, then where the last one ends; and `JsonLines.blanks`."""
    file.seek(0)
    position = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
    file.seek(position)
    starts, blanks = array("Q"), array("Q")
    for line, length in _lines(file):
        if length <= MOST_BYTES and line.isspace():
            blanks.append(len(starts))
        else:
            starts.append(position)
        position += length
    starts.append(position)
    return starts, blanks


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The lines from where the file stands, of each at most `MOST_BYTES`, and how many it has."""
    for line in iter(partial(file.readline, MOST_BYTES), b""):
        yield line, len(line) if line.endswith(b"\n") else len(line) + _to_the_end_of_line(file)


def _to_the_end_of_line(file: BinaryIO) -> int:
    """How many bytes that is; then the file stands behind them."""
    length = 0
    for piece in iter(partial(file.read, 1 << 18), b""):
        end = piece.find(b"\n") + 1
        if end:
            file.seek(end - len(piece), os.SEEK_CUR)
            return length + end
        length += len(piece)
    return length


def _cells(text: str, place: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise DataError(f"{place}: is not comma-separated text: {error}", hint=_csv_hint(error)) from None


def _csv_hint(error: csv.Error) -> str:
    if "field limit" in str(error):
        return "a quote may be open; give longer texts as .jsonl or .parquet"
    if "new-line" in str(error):
        return "save it with line ends of Unix or Windows, LF or CRLF; some of its lines end in CR alone"
    return 'a cell that holds quotes is written "so: ""quoted"""'


def _encodable(row: Any) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _opened(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read: {error.strerror}", hint="see to the file's rights"
        ) from None


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns
