"""The core's data sources: folders, files, and sets of the hub."""

from __future__ import annotations

import os
from pathlib import Path

from toolkit import hub
from toolkit.data.confined import reach
from toolkit.data.folders import TABLES, folder_splits, table_rows
from toolkit.data.objects import data_from_objects, named_splits
from toolkit.data.splits import Rows
from toolkit.errors import DataError, RecipeError
from toolkit.recipe import DataSpec

__all__ = ["data_from_objects", "open_splits"]


def open_splits(spec: DataSpec) -> dict[str, Rows]:
    """Raw rows by split ("train", "validation", "test": those there are), each read when it is asked for.

    `spec.source` is a folder with metadata tables, a folder with tables by split, one table, a folder saved
    by `datasets`, or the id of a set on the hub. No code that comes with the data is ever run.

    Raises:
        RecipeError: the spec asks for what cannot be had.
        DataError: the source is missing or cannot be read. A bad row raises it only when that row is read.
    """
    if spec.streaming:
        raise RecipeError(
            "data.streaming: not supported", hint="leave it out: rows are read from disk one at a time anyway"
        )
    if spec.root is not None and not os.path.isdir(os.path.expanduser(spec.root)):  # noqa: PTH111, PTH112
        raise RecipeError(
            f"data.root: {spec.root!r} is no folder",
            hint="name the folder that rows may name files in, / for any",
        )
    path = Path(spec.source).expanduser().absolute()
    try:
        if path.exists():
            return _local_splits(spec, path)
    except OSError as error:
        raise DataError(
            f"data.source: {spec.source} cannot be read: {error.strerror}",
            hint="see to its rights, or name another folder, file, or set on the hub",
        ) from None
    if not hub.ID.fullmatch(spec.source) or path.suffix.lower() in TABLES:
        raise DataError(
            f"data.source: {spec.source} does not exist", hint="name a folder, a file, or a set on the hub"
        )
    return hub_splits(spec.source, spec.config)


def _local_splits(spec: DataSpec, path: Path) -> dict[str, Rows]:
    if spec.config is not None:
        raise RecipeError(
            f"data.config: '{spec.config}' has no meaning for the local data {spec.source}",
            hint="it selects a configuration of a set on the hub; leave it out",
        )
    roots = reach(spec)
    return folder_splits(path, roots) if path.is_dir() else {"train": table_rows(path, path.parent, roots)}


def hub_splits(name: str, config: str | None) -> dict[str, Rows]:
    """The splits of a set on the hub, downloaded or from the cache.

    Raises:
        DataError: it cannot be had, for whatever reason.
    """
    from datasets import load_dataset

    try:
        loaded = load_dataset(name, config)
    except Exception as error:  # of many kinds: of the network, the hub, the set's own files
        raise DataError(
            f"'{name}' is no folder or file here, and cannot be loaded from the hub: {error}",
            hint=_hint(error),
        ) from error
    return named_splits(loaded, name)


def _hint(error: Exception) -> str:
    from datasets import config

    if isinstance(error, ValueError) and "config" in str(error).lower():
        return "choose a configuration: --set data.config=NAME"
    if config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only sets in the cache are found: unset it, or check the spelling"
    if isinstance(error, ConnectionError):
        return "check the spelling and the network; HF_HUB_OFFLINE=1 uses only what is in the cache"
    return "check the spelling; for a private or gated set, log in: hf auth login"
