"""How far from its folder a file may lie that is named by somebody else's data or model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def lies_in(path: Path, folders: Sequence[Path]) -> bool:
    """Whether the file that a path leads to lies in one of the folders, links followed."""
    parents = Path(os.path.realpath(path)).parents
    return any(Path(os.path.realpath(folder)) in parents for folder in folders)


def blobs_beside(own: Path) -> list[Path]:
    """Where the files of a snapshot in the hub's cache lie: in the snapshot there are links to them."""
    blobs = [parent.parent / "blobs" for parent in own.parents if parent.name == "snapshots"]
    return [one for one in blobs if "--" in one.parent.name and one.is_dir() and not one.is_symlink()]
