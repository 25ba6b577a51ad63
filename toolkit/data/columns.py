"""Which column of the data is which column of a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from toolkit.data.confined import Confined
from toolkit.data.expanded import expanded
from toolkit.data.folders import is_file_column
from toolkit.data.splits import Rows, Source
from toolkit.errors import DataError, RecipeError, ToolkitError, did_you_mean
from toolkit.types import Batch, Column, Row


@dataclass(frozen=True, eq=False)
class Renamed(Source):
    """A source whose columns `names.values()` are called `names.keys()`; these replace their namesakes."""

    source: Source
    names: Mapping[str, str]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self._others(self.source.columns), *self.names]))

    @property
    def is_metadata(self) -> bool:
        return self.source.is_metadata

    def __len__(self) -> int:
        return len(self.source)

    def row(self, index: int) -> Row:
        row = self.source.row(index)
        named = {name: row.get(given) for name, given in self.names.items()}
        return {name: row[name] for name in self._others(row)} | named

    def place(self, index: int) -> str:
        return self.source.place(index)

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        return self.source.contents(ids)

    def _others(self, columns: Iterable[str]) -> list[str]:
        given = set(self.names.values())
        return [name for name in columns if name not in given]


def name_columns(
    splits: Mapping[str, Rows], columns: Sequence[Column], mapping: Mapping[str, str]
) -> dict[str, Rows]:
    """`splits` with the columns that the plugins read called as they call them; the other columns stay.

    A column is the one that `mapping` gives, else the one of that name, else the first of its usual names.
    Two of them share a column of the data only where `mapping` says so. In a row that lacks it, it is None.

        >>> from toolkit.data.sources import data_from_objects
        >>> splits = data_from_objects([{"said": "hi", "id": 3}])
        >>> name_columns(splits, [Column("text", usual=("sentence", "said"))], {})["train"][0]
        {'id': 3, 'text': 'hi'}

    Raises:
        RecipeError: `mapping` names a column that no plugin reads, or that is not in the data.
        DataError: a required column is not in the data. All faults come together, as the first one's class.
    """
    columns = _merged(columns)
    faults = _unread(columns, mapping)
    splits, columns, mapping = _expanded(splits, columns, mapping)
    found = {name: _find(columns, mapping, rows.columns) for name, rows in splits.items()}
    for names in _alike(splits):
        present = splits[names[0]].columns
        where = "the data" if len(names) == len(splits) else " and ".join(f"split '{name}'" for name in names)
        faults += _missing(columns, mapping, found[names[0]], present, where)
    if faults:
        raise type(faults[0]).gather(faults)
    return {name: replace(rows, source=Renamed(rows.source, found[name])) for name, rows in splits.items()}


def names_given(rows: Rows) -> dict[str, str]:
    """The data's name of each column that the plugins read."""
    source = rows.source.source if isinstance(rows.source, Confined) else rows.source
    return dict(source.names) if isinstance(source, Renamed) else {}


def in_batches(columns: Sequence[Column]) -> list[str]:
    """The columns whose values come along in batches."""
    return [column.name for column in _merged(columns) if column.in_batch]


@dataclass(frozen=True)
class Keeping:
    """`prepare`, whose rows also have the named columns of the raw row, unless it makes them itself."""

    prepare: Callable[[Row], Row]
    names: Sequence[str]

    def __call__(self, row: Row) -> Row:
        return {**{name: row[name] for name in self.names if name in row}, **self.prepare(row)}


def with_columns(batch: Batch, rows: Sequence[Row], names: Sequence[str]) -> Batch:
    """A batch of prepared rows with `columns`, where any are asked for: what the rows hold in them.

    >>> with_columns({"num_targets": 2}, [{"speaker": "p225"}, {}], ["speaker"])
    {'num_targets': 2, 'columns': {'speaker': ['p225', None]}}
    """
    columns = {"columns": {name: [row.get(name) for row in rows] for name in names}} if names else {}
    return {**batch, **columns}


def _merged(columns: Sequence[Column]) -> list[Column]:
    """Columns that several plugins read, once each."""
    merged: dict[str, Column] = {}
    for column in columns:
        other = merged.get(column.name, column)
        usual = tuple(dict.fromkeys(other.usual + column.usual))
        required, one_of = other.required or column.required, other.one_of or column.one_of
        holds_rows = other.holds_rows or column.holds_rows
        together, in_batch = other.keeps_together or column.keeps_together, other.in_batch or column.in_batch
        file = other.names_file or column.names_file
        merged[column.name] = Column(
            column.name, usual, required, holds_rows, one_of, together, in_batch, file
        )
    return list(merged.values())


def _expanded(
    splits: Mapping[str, Rows], columns: Sequence[Column], mapping: Mapping[str, str]
) -> tuple[Mapping[str, Rows], list[Column], dict[str, str]]:
    """The splits with all rows that a column holds in place of the one it is in, and what is left to be named."""
    left, unnamed = list(columns), dict(mapping)
    for column in (column for column in columns if column.holds_rows):
        name = mapping.get(column.name, column.name)
        if any(name in rows.columns for rows in splits.values()):
            left.remove(column)
            unnamed.pop(column.name, None)
            splits = {
                split: expanded(rows, name, f"split '{split}'") if name in rows.columns else rows
                for split, rows in splits.items()
            }
    return splits, left, unnamed


def _find(columns: Sequence[Column], mapping: Mapping[str, str], present: Sequence[str]) -> dict[str, str]:
    """The data's column for each plugin column that has one; a very name goes before usual names."""
    found = {column.name: mapping[column.name] for column in columns if mapping.get(column.name) in present}
    free = [name for name in present if name not in found.values()]
    for usual in (False, True):
        for column in columns:
            if column.name in found or column.name in mapping:
                continue
            candidates = column.usual if usual else (column.name,)
            name = next((name for name in candidates if name in free), None)
            if name is not None:
                found[column.name] = name
                free.remove(name)
    return found


def _alike(splits: Mapping[str, Rows]) -> list[list[str]]:
    """The names of the splits, those that have the same columns together."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, rows in splits.items():
        groups.setdefault(tuple(sorted(rows.columns)), []).append(name)
    return list(groups.values())


def _unread(columns: Sequence[Column], mapping: Mapping[str, str]) -> list[ToolkitError]:
    names = [column.name for column in columns]
    return [
        RecipeError(
            f"data.columns.{name}: no plugin of this recipe reads a column '{name}'",
            hint=did_you_mean(name, names) or f"columns that are read: {', '.join(names) or 'none'}",
        )
        for name in mapping
        if name not in names
    ]


def _missing(
    columns: Sequence[Column],
    mapping: Mapping[str, str],
    found: Mapping[str, str],
    present: Sequence[str],
    where: str,
) -> list[ToolkitError]:
    there = f"(columns: {', '.join(present)})"
    free = [name for name in present if name not in found.values()]
    faults: list[ToolkitError] = []
    for column in columns:
        if column.name in found:
            continue
        alike = [one.name for one in columns if one.one_of == column.one_of and column.one_of]
        if column.name in mapping:
            given = mapping[column.name]
            message = f"data.columns.{column.name}: no column '{given}' in {where} {there}"
            faults.append(RecipeError(message, hint=did_you_mean(given, present) or "name one of them"))
        elif alike[:1] == [column.name] and not {*alike} & {*found, *mapping}:
            names = " or ".join([", ".join(f"'{name}'" for name in alike[:-1]), f"'{alike[-1]}'"])
            last = next(one for one in columns if one.name == alike[-1])
            faults.append(DataError(f"no column for {names} in {where} {there}", hint=_told(last, free)))
        elif column.required and not alike:
            faults.append(
                DataError(f"no column for '{column.name}' in {where} {there}", hint=_told(column, free))
            )
    return faults


def _told(column: Column, free: Sequence[str]) -> str:
    likely = next((name for name in free if column.names_file or not is_file_column(name)), "COLUMN")
    return f"say which it is: --set data.columns.{column.name}={likely}"
