"""Checkpoints on disk: complete only with their manifest, which is written last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from toolkit.errors import CheckpointError
from toolkit.notices import json_text

PREFIX = "checkpoint-"
MANIFEST = "manifest.json"
RUNNING_LOSS = "running_loss.json"


def complete(folder: Path) -> None:
    """Write the manifest: size and SHA-256 of every file of the checkpoint."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    entries = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in files
    }
    write_json(folder / MANIFEST, {"files": entries})


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when it is as its manifest says."""
    try:
        entries = read_json(folder / MANIFEST)["files"]
    except (CheckpointError, KeyError, TypeError):
        return "it has no readable manifest"
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            return f"'{name}' is missing"
        if path.stat().st_size != entry["size"] or _sha256(path) != entry["sha256"]:
            return f"'{name}' is not as it was written"
    return None


def newest(parent: Path) -> Path | None:
    """The latest complete checkpoint in `parent`, or None; damaged ones are passed over."""
    return next((folder for folder in reversed(ordered(parent)) if damage(folder) is None), None)


def ordered(parent: Path) -> list[Path]:
    """The folders named checkpoint-N in `parent`, by N, complete or not."""
    if not parent.is_dir():
        return []
    found = [
        path for path in parent.iterdir() if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    ]
    return sorted((path for path in found if path.name.startswith(PREFIX)), key=step_of)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def rotate(written: Path, limit: int | None, best: str | None) -> None:
    """Keep the `limit` newest complete checkpoints beside `written`, and always that one and the best."""
    if not limit or limit < 1:
        return
    folders = [folder for folder in ordered(written.parent) if (folder / MANIFEST).is_file()]
    kept = {written, *(folder for folder in folders if best and folder.name == Path(best).name)}
    for folder in reversed(folders):
        if len(kept) < limit:
            kept.add(folder)
    for folder in folders:
        if folder not in kept:
            clear(folder)


def clear(folder: Path) -> None:
    """Remove a checkpoint, its manifest first, so that a half-removed one is never taken for complete."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Write plain data so that the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json_text(data, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a file of a run holds.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no mapping")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", hint="bring it back from a copy, or start another run"
        ) from None
    return content


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
