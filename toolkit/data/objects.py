"""Rows that are objects in memory or `datasets`, and nothing decoded before a plugin asks for it."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from functools import cached_property
from numbers import Number
from pathlib import PurePath
from typing import Any

from toolkit.data.files import HEAD, columns_seen
from toolkit.data.splits import ALIASES, Rows, Source, all_rows
from toolkit.errors import DataError, did_you_mean
from toolkit.types import Row

CHUNK = 1000
"""Rows read together for a fingerprint."""


@dataclass(frozen=True, eq=False)
class ArrowRows(Source):
    """A `datasets.Dataset`, memory-mapped where it comes from files."""

    dataset: Any
    name: str

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def row(self, index: int) -> Row:
        import pyarrow

        try:
            return dict(self.dataset[index])
        except (ValueError, OverflowError, pyarrow.ArrowException) as error:
            raise DataError(
                f"{self.place(index)}: cannot be read: {error}", hint="mend the row, or leave it out"
            ) from error

    def place(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        """Plain columns by value; columns that hold bytes by how many, over all rows."""
        table = self.dataset.data
        heavy = [name for name in self.columns if _holds_bytes(table.schema.field(name).type)]
        plain = [name for name in self.columns if name not in heavy]
        if plain:
            light = self.dataset.select_columns(plain).with_format("arrow")
            for start in range(0, len(ids), CHUNK):
                yield from _plain(light, ids[start : start + CHUNK])
        for name in heavy:
            yield f"{name}: {sum(map(_count_bytes, table.column(name).chunks))}".encode()


@dataclass(frozen=True, eq=False)
class ObjectRows(Source):
    """A list of mappings, or any object that gives mappings by number, such as a torch map-style dataset."""

    data: Any
    name: str

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return columns_seen(self, HEAD if self._at_hand else 1)

    def __len__(self) -> int:
        return len(self.data)

    def row(self, index: int) -> Row:
        row = self.data[index]
        if not isinstance(row, Mapping):
            raise DataError(
                f"{self.place(index)}: expected a mapping from columns to values, found {type(row).__name__}",
                hint="give rows such as {'text': 'hello'}",
            )
        return dict(row)

    def place(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        """All rows of a list, else a hundred spread evenly; of what is not plain data in them, the type."""
        step = 1 if self._at_hand else -(-len(ids) // HEAD)
        for index in ids[::step]:
            try:
                yield json.dumps(self.row(index), default=_stand_in, skipkeys=True).encode()
            except DataError as fault:
                yield fault.message.encode()

    @property
    def _at_hand(self) -> bool:
        return isinstance(self.data, (list, tuple))


def data_from_objects(data: Any) -> dict[str, Rows]:
    """Rows by split, from what a program gives: rows, or a mapping of splits to rows.

    Rows are a `datasets.Dataset` (its media stay undecoded), a list of mappings, or any object with `len()`
    that gives mappings by number; they are the train split where they come alone.

    Raises:
        DataError: it is none of these, or a split has no rows.
    """
    import datasets

    if isinstance(data, datasets.DatasetDict):
        return named_splits(data, "the data")
    if not isinstance(data, Mapping):
        return {"train": _rows(data, "train")}
    unknown = [str(name) for name in data if name not in ALIASES]
    if unknown:
        raise DataError(
            f"the data has a split '{unknown[0]}'; splits are called train, validation, test",
            hint=did_you_mean(unknown[0], ALIASES) or "give a mapping from splits to rows, or a list of rows",
        )
    return named_splits(data, "the data")


def named_splits(data: Mapping[str, Any], name: str) -> dict[str, Rows]:
    """The splits that have a usual name, under our names; `name` is the user's word for the whole.

    Raises:
        DataError: no split has a usual name, or one has no rows.
    """
    ours: dict[str, str] = {}
    for given in sorted((given for given in data if given in ALIASES), key=list(ALIASES).index):
        ours.setdefault(ALIASES[given], given)
    if not ours:
        raise DataError(
            f"{name} has no split called train, validation or test (splits: {', '.join(map(str, data)) or 'none'})",
            hint="pick splits in code: toolkit.run(recipe, data={'train': …})",
        )
    return {split: _rows(data[given], given) for split, given in ours.items()}


def undecoded(dataset: Any) -> Any:
    """The dataset with every feature that keeps bytes left as {"bytes", "path"}: `datasets` decodes none."""
    from datasets import Features

    # What `cast_column` does for a column that is such a feature itself; deeper down, it would copy the data.
    dataset = copy.deepcopy(dataset)
    dataset.info.features = Features({name: _undecoded(one) for name, one in dataset.features.items()})
    return dataset


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _undecoded(below) for name, below in feature.items()}
    fields = [field.name for field in dataclasses.fields(feature)]
    if "feature" in fields:  # a list of something
        return dataclasses.replace(feature, feature=_undecoded(feature.feature))
    if "decode" in fields and _holds_bytes(feature()):
        return dataclasses.replace(feature, decode=False)
    return feature


def _plain(table: Any, ids: Sequence[int]) -> Iterator[bytes]:
    """The rows as JSON, all at once; if one of them cannot be read, each by itself, with what is wrong with it."""
    import pyarrow

    try:
        yield json.dumps(table[list(ids)].to_pylist(), default=str).encode()
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        if len(ids) == 1:
            yield f"{type(error).__name__}: {error}".encode()
        else:
            for one in ids:
                yield from _plain(table, [one])


def _holds_bytes(kind: Any) -> bool:
    """Whether bytes are anywhere in an Arrow type."""
    import pyarrow

    types = pyarrow.types
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind):
        return True
    return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))


def _count_bytes(values: Any) -> int:
    """How many bytes the binary values in an Arrow array have, read from their offsets where it has any."""
    import pyarrow.compute

    if not _holds_bytes(values.type):
        return 0
    if pyarrow.types.is_binary_view(values.type):
        values = values.cast(pyarrow.large_binary())
    if values.type.num_fields == 0:
        return pyarrow.compute.sum(pyarrow.compute.binary_length(values)).as_py() or 0
    parts = values.flatten()
    return sum(map(_count_bytes, parts)) if isinstance(parts, list) else _count_bytes(parts)


def _rows(data: Any, name: str) -> Rows:
    import datasets

    if isinstance(data, Rows):
        return data
    if isinstance(data, datasets.Dataset):
        return all_rows(ArrowRows(undecoded(data), name), f"split '{name}'")
    if isinstance(data, (str, bytes, Mapping)) or not (
        hasattr(data, "__len__") and hasattr(data, "__getitem__")
    ):
        raise DataError(
            f"split '{name}': expected rows by number, found {type(data).__name__}",
            hint="give a list of mappings, a datasets.Dataset, or an object with len() and [number]",
        )
    return all_rows(ObjectRows(data, name), f"split '{name}'")


def _stand_in(value: Any) -> str:
    """What counts of an object that is not plain data."""
    if isinstance(value, (bytes, bytearray)):
        return f"{len(value)} bytes"
    return str(value) if isinstance(value, (Number, date, time, PurePath)) else type(value).__name__
