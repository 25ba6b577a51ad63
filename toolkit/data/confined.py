"""Files that rows name, none of which may lie outside the data's own folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolkit.data.splits import Rows, Source
from toolkit.errors import DataError
from toolkit.reach import blobs_beside, lies_in
from toolkit.recipe import DataSpec
from toolkit.types import Column, Row

REACH = "put the file itself into that folder, or say how far rows may reach: --set data.root=FOLDER"


@dataclass(frozen=True, eq=False)
class Confined(Source):
    """A source whose `names` name files: absolute paths now, of files in one of `folders`.

    Relative names count from the first of these, or from the folder one is in. An absolute path in a table on this
    machine, but for metadata, is taken at its word: `absolute`, for manifests name files so.
    """

    source: Source
    names: Sequence[str]
    folders: Sequence[Path]
    absolute: bool

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    def __len__(self) -> int:
        return len(self.source)

    def row(self, index: int) -> Row:
        row = self.source.row(index)
        for name in self.names:
            row[name] = self._confined(index, row.get(name))
        return row

    def place(self, index: int) -> str:
        return self.source.place(index)

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        return self.source.contents(ids)

    def _confined(self, index: int, value: Any) -> Any:
        if isinstance(value, Mapping) and value.get("path"):
            data = value.get("bytes")
            if isinstance(data, bytes) and data:
                return value  # whose path is no more than its name
            return {**value, "path": self._confined(index, value["path"])}
        if not isinstance(value, str) or not value or "\0" in value:
            return value  # for the plugin to judge
        if self.absolute and Path(value).is_absolute() and ".." not in Path(value).parts:
            return value
        here = self.folders[0] / value
        path = here if os.path.lexists(here) else Path(value).absolute()
        if not lies_in(path, self.folders):
            raise DataError(f"{self.place(index)}: '{value}' leads out of the data folder", hint=REACH)
        return str(path)


def confined(splits: Mapping[str, Rows], columns: Sequence[Column], spec: DataSpec) -> dict[str, Rows]:
    """`splits` of `spec`, whose rows name no file outside the data, of a hub's set outside its caches."""
    named = list(dict.fromkeys(column.name for column in columns if column.names_file))
    if not named:
        return dict(splits)
    folders, is_local = reach(spec), _is_local(spec)

    def source(rows: Rows) -> Confined:
        names = [name for name in named if name in rows.columns]
        return Confined(rows.source, names, folders, absolute=is_local and not rows.source.is_metadata)

    return {split: replace(rows, source=source(rows)) for split, rows in splits.items()}


def reach(spec: DataSpec) -> list[Path]:
    """The folders that rows may name files in, the data's own first."""
    own = _own(spec)
    roots = [Path(spec.root).expanduser()] if spec.root is not None else []
    if _is_local(spec):
        return [own if own.is_dir() else own.parent, *blobs_beside(own), *roots]
    import datasets
    from huggingface_hub import constants

    return [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE), *roots]


def _own(spec: DataSpec) -> Path:
    return Path(spec.source).expanduser().absolute()


def _is_local(spec: DataSpec) -> bool:
    return _own(spec).exists()
