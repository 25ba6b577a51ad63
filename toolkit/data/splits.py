"""Rows of a source by number, and the views that splits are."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from math import isfinite
from typing import Any, overload

from toolkit.errors import DataError, RecipeError
from toolkit.types import Row

ALIASES = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
"""What users call the splits, and what they are called here."""


class Source(ABC):
    """Rows by number, each read when it is asked for; memory does not grow with what is in them."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that rows have; a single row may lack some."""

    @property
    def is_metadata(self) -> bool:
        """Whether it is a table that lies beside the files it names, and moves with them."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def row(self, index: int) -> Row:
        """A fresh dict.

        Raises:
            DataError: this row cannot be used; others may.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Where a row stands, as an error names it: `train/metadata.csv, row 17`."""

    @abstractmethod
    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        """What the fingerprint of these rows is taken of: cheap, and the same wherever the data lies."""


@dataclass(frozen=True, eq=False)
class Rows(Sequence[Row]):
    """One split: some rows of a source, in order. `ids[i]`, its `row_id`, is the place of row i in it.

    Reading a row that cannot be used raises `DataError`, each time; slices are views.
    """

    source: Source
    ids: Sequence[int]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    def place(self, index: int) -> str:
        return self.source.place(self.ids[index])

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return replace(self, ids=self.ids[index])
        return self.source.row(self.ids[index])


def all_rows(source: Source, name: str) -> Rows:
    """Every row of a source; `name` is the user's word for it.

    Raises:
        DataError: there are none.
    """
    if not len(source):
        raise DataError(
            f"{name} holds no rows",
            hint="a split needs at least one row, in a csv beneath the column names; leave out one that is empty",
        )
    return Rows(source, range(len(source)))


def limited(splits: Mapping[str, Rows], limit: int | None, where: str = "data.limit") -> dict[str, Rows]:
    """At most the first `limit` rows of each split; `where` names the setting in an error."""
    if limit is not None and limit < 1:
        raise RecipeError(f"{where}: expected at least 1, found {limit}", hint="null takes all rows")
    return {name: rows[:limit] for name, rows in splits.items()}


def with_validation(
    splits: Mapping[str, Rows], fraction: float, seed: int, together: Sequence[str] = ()
) -> dict[str, Rows]:
    """Where there is no validation split, set aside `fraction` of train: rounded half up, at least one row.

    Which rows depends on the number of rows, the fraction and the seed alone; both parts keep their order.
    Of a single row nothing is set aside.

    Args:
        together: columns; rows that have the same values in them go to the same part. So more rows may be set aside,
            and none where all belong together.
    Raises:
        RecipeError: the fraction is not in [0, 1).
        DataError: there is no train split.
    """
    if not 0 <= fraction < 1:
        raise RecipeError(
            f"data.validation_fraction: expected at least 0 and less than 1, found {fraction}",
            hint="0.1 sets a tenth of train aside, 0 nothing",
        )
    if "train" not in splits:
        raise DataError(
            f"the data has no split 'train' (splits: {', '.join(splits)})",
            hint="training needs one: call a file or folder of the data 'train'",
        )
    train = splits["train"]
    if "validation" in splits or fraction == 0 or len(train) < 2:
        return dict(splits)
    wanted = int((Decimal(str(fraction)) * len(train)).to_integral_value(ROUND_HALF_UP))
    count = min(max(wanted, 1), len(train) - 1)
    generator = random.Random(f"validation {seed}")
    if together:
        aside = _chosen(_groups(train, together), count, generator)
    else:
        aside = set(generator.sample(range(len(train)), count))
    if not aside:
        return dict(splits)
    parts = {"train": array("Q"), "validation": array("Q")}
    for index, row_id in enumerate(train.ids):
        parts["validation" if index in aside else "train"].append(row_id)
    return {**splits, **{name: replace(train, ids=ids) for name, ids in parts.items()}}


def _chosen(groups: Any, count: int, generator: random.Random) -> set[int]:
    """The places of whole groups, drawn until there are `count` rows or one group is left.

    Args:
        groups: (rows,), the number of each row's group.
    """
    import numpy as np

    sizes = np.bincount(groups)
    if len(sizes) == len(groups):
        return set(generator.sample(range(len(groups)), count))
    drawn = np.array(generator.sample(range(len(sizes)), len(sizes))[:-1], dtype=np.int64)
    enough = int(np.searchsorted(np.cumsum(sizes[drawn]), count)) + 1
    return set(np.flatnonzero(np.isin(groups, drawn[:enough])).tolist())


def _groups(rows: Rows, together: Sequence[str]) -> Any:
    """(rows,), the same number for rows that have the same values, by the order of their first.

    Of each row only 8 bytes are kept, a hash of its values.
    """
    import numpy as np

    keys = array("Q", (_key(rows, place, together) for place in range(len(rows))))
    _, firsts, groups = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(firsts))[groups]


def _key(rows: Rows, place: int, columns: Sequence[str]) -> int:
    """What rows are compared by; one that cannot be read is like no other."""
    try:
        row = rows[place]
    except DataError:
        values: object = place
    else:
        values = [_comparable(row.get(column), place) for column in columns]
    return int.from_bytes(
        hashlib.blake2b(repr(values).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _comparable(value: object, place: int) -> object:
    """A value as a key: of a mapping that holds bytes a hash of them; an object in memory is like no other."""
    if isinstance(value, Mapping):
        data = value.get("bytes")
        return hashlib.blake2b(data).digest() if isinstance(data, bytes) else str(value.get("path"))
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float) and isfinite(value):
        return value.as_integer_ratio()  # 1 and 1.0 are the same
    return ("object", place)
