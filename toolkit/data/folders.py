"""Data in a folder: tables by split, and tables that name the files beside them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.data.confined import REACH
from toolkit.data.files import CsvFile, JsonLines
from toolkit.data.objects import ArrowRows, named_splits, undecoded
from toolkit.data.splits import ALIASES, Rows, Source, all_rows
from toolkit.errors import DataError
from toolkit.reach import lies_in
from toolkit.types import Row

TABLES = (".csv", ".jsonl", ".json", ".parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
EXPECTED = (
    "expected metadata.csv, .jsonl or .parquet with a column 'file_name', or train.csv, .jsonl or .parquet; "
    "metadata may also lie in train/, validation/ and test/"
)

_NAMES = "names are relative to the table's folder; mend the name, or take the row out"


@dataclass(frozen=True, eq=False)
class NamedFiles(Source):
    """A metadata table; its `file_name` and `*_file_name` columns become absolute paths of files that exist.

    Attributes:
        folder: where the table lies; names are relative to it.
        roots: the folder of the whole data, and others beside it, which no file may lie outside of.
    """

    table: Source
    folder: Path
    roots: Sequence[Path]

    @property
    def columns(self) -> tuple[str, ...]:
        return self.table.columns

    @property
    def is_metadata(self) -> bool:
        return True

    def __len__(self) -> int:
        return len(self.table)

    def row(self, index: int) -> Row:
        row = self.table.row(index)
        if "file_name" in self.columns and not row.get("file_name"):
            raise DataError(
                f"{self.place(index)}: names no file", hint="fill in 'file_name', or take the row out"
            )
        for name in filter(is_file_column, row):
            row[name] = self._path(self.place(index), row[name]) if row[name] else None
        return row

    def place(self, index: int) -> str:
        return self.table.place(index)

    def contents(self, ids: Sequence[int]) -> Iterator[bytes]:
        yield from self.table.contents(ids)
        for index in ids:
            try:
                row = self.row(index)
            except DataError as fault:
                yield fault.message.encode()
            else:
                paths = [row[name] for name in filter(is_file_column, row) if row[name]]
                yield " ".join(str(Path(path).stat().st_size) for path in paths).encode()

    def _path(self, place: str, name: object) -> str:
        """The absolute path of the file that a row names."""
        if not isinstance(name, str) or "\0" in name:
            raise DataError(f"{place}: expected the name of a file, found {name!r}", hint=_NAMES)
        path = self.folder / name
        is_elsewhere = Path(name).is_absolute() and len(self.roots) == 1  # a table moves with its files
        if is_elsewhere or not lies_in(path, self.roots):
            raise DataError(f"{place}: '{name}' leads out of the data folder", hint=REACH)
        if not os.path.isfile(path):  # noqa: PTH113 (pathlib raises where a name is too long)
            missing = "is no file" if os.path.exists(path) else "does not exist"  # noqa: PTH110 (as above)
            raise DataError(f"{place}: '{name}' {missing}", hint=_NAMES)
        return str(path)


def is_file_column(name: str) -> bool:
    return name == "file_name" or name.endswith("_file_name")


def folder_splits(root: Path, roots: Sequence[Path] = ()) -> dict[str, Rows]:
    """The splits of a folder: saved by `datasets`, or tables where they are expected.

    Raises:
        DataError: there is none, two claim the same split, or one cannot be read.
    """
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return _saved(root, roots)
    found: dict[str, Path] = {}
    for split, path in _tables(root):
        if split in found:
            both = f"{found[split].relative_to(root)} and {path.relative_to(root)}"
            raise DataError(f"{root}: two tables for the split '{split}': {both}", hint="keep one of them")
        found[split] = path
    if not found:
        raise _nothing(root)
    for path in found.values():
        _refuse_outside(path, root, roots)
    return {
        split: table_rows(found[split], root, roots)
        for split in dict.fromkeys(ALIASES.values())
        if split in found
    }


def table_rows(path: Path, root: Path, roots: Sequence[Path] = ()) -> Rows:
    """The rows of one table in the data folder `root`; a table called metadata names files.

    Raises:
        DataError: it is no table, cannot be read, has no rows, or is metadata without a column of files.
    """
    name = str(path.relative_to(root))
    table = _open(path, name)
    if path.name not in METADATA:
        return all_rows(table, name)
    if len(table) and not any(map(is_file_column, table.columns)):
        raise DataError(
            f"{name}: no column 'file_name' (columns: {', '.join(table.columns)})",
            hint=_how_to_name(table.columns),
        )
    return all_rows(NamedFiles(table, path.parent, roots or [root]), name)


def _how_to_name(columns: Sequence[str]) -> str:
    """What to do about a table without a column `file_name`."""
    wrong = next((mark for mark in (";", "\t", "|") if len(columns) == 1 and mark in columns[0]), None)
    if wrong is not None:
        return f"the cells are separated by {wrong!r}: save the table with commas"
    near = difflib.get_close_matches("file_name", columns, n=1)
    which = f"'{near[0]}'" if near else "the one that names the files"
    return f"rename the column {which} to 'file_name'" if near else f"call {which} 'file_name'"


def _open(path: Path, name: str) -> Source:
    if not path.is_file():
        raise DataError(f"{path}: is no file but a pipe or a device", hint="copy what it gives into a file")
    match path.suffix.lower():
        case ".csv":
            return CsvFile.open(path, name)
        case ".json" | ".jsonl":
            return JsonLines.open(path, name)
        case ".parquet":
            return ArrowRows(_parquet(path, name), name)
    raise DataError(
        f"{path}: is no table that can be read", hint=f"expected {', '.join(TABLES)}, or a folder"
    )


def _parquet(path: Path, name: str) -> Any:
    """A parquet file as a memory-mapped dataset, in the cache of `datasets`."""
    import pyarrow.parquet
    from datasets import Dataset
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.exceptions import DatasetsError

    status = path.stat()
    stamp = (str(status.st_mtime_ns), str(status.st_size))
    files = DataFilesDict(train=DataFilesList([_address(path)], [stamp]))  # a path alone would be a pattern
    try:
        if not pyarrow.parquet.read_metadata(path).num_rows:
            return Dataset.from_dict({column: [] for column in pyarrow.parquet.read_schema(path).names})
        return undecoded(Dataset.from_parquet(files, split="train"))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        pyarrow.ArrowException,
        DatasetsError,
    ) as error:
        raise DataError(
            f"{name}: is no parquet file that can be read: {error}", hint="copy or write it again"
        ) from error


def _address(path: Path) -> str:
    """A path as `datasets` takes it, for which '::' joins several.

    Raises:
        DataError: there is one in it.
    """
    if "::" in str(path):
        raise DataError(
            f"{path}: cannot be read with '::' in its name", hint="rename the file, or its folder"
        )
    return str(path)


def _refuse_outside(path: Path, root: Path, roots: Sequence[Path]) -> None:
    """Raise `DataError` if a file of the data's folder is a link, or a name, of one that lies elsewhere."""
    if not lies_in(path, roots or [root]):
        raise DataError(f"{os.path.relpath(path, root)}: leads out of the data folder", hint=REACH)


def _saved(root: Path, roots: Sequence[Path]) -> dict[str, Rows]:
    from datasets import Dataset, load_from_disk

    address = _address(root)
    try:
        loaded = load_from_disk(address)
        splits = {"train": loaded} if isinstance(loaded, Dataset) else loaded
        for dataset in splits.values():
            _validate(dataset.data)
    except Exception as error:  # of many kinds: of its JSON files, of Arrow
        raise DataError(
            f"{root}: a saved dataset that cannot be read: {error}", hint="save it again"
        ) from error
    for dataset in splits.values():
        for file in dataset.cache_files:
            _refuse_outside(Path(file["filename"]), root, roots)
    return named_splits(splits, str(root))


def _validate(table: Any) -> None:
    """Raise where values would be looked for outside of a table's data, whatever these are; no value is read."""
    for column in table.columns:
        for chunk in column.chunks:
            chunk.validate()
            chunk.view(_as_bytes(chunk.type)).validate(full=True)


def _as_bytes(kind: Any) -> Any:
    """The Arrow type that is laid out alike and whose values are bytes, any of which are as good as others."""
    import pyarrow
    from pyarrow import types

    if types.is_string(kind):
        return pyarrow.binary()
    if types.is_large_string(kind):
        return pyarrow.large_binary()
    if types.is_string_view(kind):
        return pyarrow.binary_view()
    if types.is_decimal(kind) or types.is_temporal(kind):
        return pyarrow.binary(kind.bit_width // 8)
    if types.is_struct(kind):
        return pyarrow.struct([field.with_type(_as_bytes(field.type)) for field in kind])
    if types.is_fixed_size_list(kind):
        return pyarrow.list_(_as_bytes(kind.value_type), kind.list_size)
    if types.is_list(kind):
        return pyarrow.list_(_as_bytes(kind.value_type))
    if types.is_large_list(kind):
        return pyarrow.large_list(_as_bytes(kind.value_type))
    return _as_bytes(kind.storage_type) if isinstance(kind, pyarrow.BaseExtensionType) else kind


def _tables(root: Path) -> Iterator[tuple[str, Path]]:
    """Every table in the places where one is expected, with the split it is for."""
    for path in sorted(root.iterdir()):
        split = ALIASES.get(path.stem.lower())
        if path.is_dir() and split:
            yield from ((split, path / name) for name in METADATA if (path / name).is_file())
        elif path.is_file() and path.name in METADATA:
            yield "train", path
        elif path.is_file() and split and path.suffix.lower() in TABLES:
            yield split, path


def _nothing(root: Path) -> DataError:
    paths = sorted(root.iterdir())
    names = [path.name + "/" * path.is_dir() for path in paths]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    tables = [path for path in paths if path.suffix.lower() in TABLES]
    return DataError(
        f"{root}: holds no data that is recognised (found: {', '.join(names[:5]) or 'nothing'}{more})",
        hint=f"name the file itself: {tables[0]}" if len(tables) == 1 else EXPECTED + _beside(paths),
    )


def _beside(paths: Sequence[Path]) -> str:
    """How a table begins that says what files hold, where there are any."""
    files = (path.name for path in paths if path.is_file() and path.suffix.lower() not in TABLES)
    first = next(files, None)
    if first is None:
        return ""
    return f". A metadata.csv has a line of column names, such as 'file_name,text', then '{first},what it holds', …"
