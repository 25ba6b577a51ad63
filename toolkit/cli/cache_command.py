"""List what is kept between runs, the longest unused first; or clear it.

toolkit cache
toolkit cache --clear
"""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any

from toolkit.cache import GB, Kept, cache_folder, clear_up, kept
from toolkit.cli.console import print_table
from toolkit.errors import CheckpointError
from toolkit.notices import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="remove what no run that is going on uses")
    parser.add_argument(
        "--dir", metavar="DIR", help="the cache's folder, where the recipe's cache.dir names one"
    )


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    root = cache_folder(options.dir)
    found = _found(root, options.clear)
    removed = [one for one in found if options.clear and not one.users]
    for one in removed:
        _remove(one)
    left = [one for one in found if one not in removed]
    document = {
        "folder": str(root),
        "entries": list(map(_entry, left)),
        "removed": list(map(_entry, removed)),
    }
    return document, 0


def _found(root: Path, clear: bool) -> list[Kept]:
    try:
        if clear:
            clear_up(root)
        return kept(root)
    except OSError as error:
        raise CheckpointError(
            f"{root} cannot be read: {error.strerror}",
            hint="see to its rights, or name another folder with --dir",
        ) from error


def _remove(one: Kept) -> None:
    try:
        one.remove()
    except OSError as error:
        raise CheckpointError(
            f"{one.folder} cannot be removed: {error.strerror}", hint="see to its rights"
        ) from error


def _entry(one: Kept) -> dict[str, Any]:
    used = datetime.fromtimestamp(one.used).isoformat(timespec="seconds")
    return {
        **one.facts,
        "rows": one.rows,
        "bytes": one.bytes,
        "used": used,
        "in_use_by": one.users,
        "folder": str(one.folder),
    }


def show(document: dict[str, Any]) -> None:
    for title, entries in (("removed", document["removed"]), ("kept", document["entries"])):
        if entries:
            total = sum(one["bytes"] for one in entries)
            print(printable(f"{title}, {total / GB:.2g} GB in {document['folder']}:"))
            print_table([["stage", "model", "rows", "GB", "last used"], *map(_line, entries)])
    if not document["entries"] and not document["removed"]:
        print(printable(f"nothing is kept in {document['folder']}"))


def _line(one: dict[str, Any]) -> list[str]:
    model = Path(str(one.get("model", ""))).name
    by = ", ".join(one["in_use_by"])
    used = f"in use by process {by}" if by else one["used"]
    return [str(one.get("stage", "?")), model, str(one["rows"]), f"{one['bytes'] / GB:.2g}", used]
