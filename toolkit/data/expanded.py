"""Rows that hold several rows, each of which counts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

from toolkit.data.files import HEAD, columns_seen
from toolkit.data.splits import Rows, Source, all_rows
from toolkit.errors import DataError
from toolkit.types import Row

WHOLE = -1


@dataclass(frozen=True, eq=False)
class Expanded(Source):
    """A source in which `column` holds a list of rows: each lies over the one it is in.

    Attributes:
        indices: by number of the row here, the number of the one that it is in.
        parts: its place in the list, or `WHOLE` for a row that has none.
    """

    source: Source
    column: str
    indices: array[int]
    parts: array[int]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return columns_seen(self, HEAD)

    @property
    def is_metadata(self) -> bool:
        return self.source.is_metadata

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, index: int) -> Row:
        row, part = self.source.row(self.indices[index]), self.parts[index]
        if part == WHOLE:
            return row
        held = row.pop(self.column)
        return {**row, **held[part]}

    def place(self, index: int) -> str:
        place, part = self.source.place(self.indices[index]), self.parts[index]
        return place if part == WHOLE else f"{place}, {self.column} {part + 1}"

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        yield array("q", (self.parts[index] for index in ids)).tobytes()
        holders = array("Q", (holder for holder, _ in groupby(self.indices[index] for index in ids)))
        yield from self.source.contents(holders)


def expanded(rows: Rows, column: str, name: str) -> Rows:
    """`rows`, each as many times as its `column` holds rows; one that holds no list of rows stays as it is.

    Reads every row once.

    Args:
        name: the user's word for the rows.
    Raises:
        DataError: no row holds any.
    """
    indices, parts = array("Q"), array("q")
    for index in rows.ids:
        for part in _parts(rows.source, index, column):
            indices.append(index)
            parts.append(part)
    return all_rows(Expanded(rows.source, column, indices, parts), name)


def _parts(source: Source, index: int, column: str) -> Sequence[int]:
    try:
        held: Any = source.row(index).get(column)
    except DataError:  # found again when the row is read
        return [WHOLE]
    return range(len(held)) if _holds_rows(held) else [WHOLE]


def _holds_rows(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, Mapping) for part in value)
