"""Checkpoints on disk: complete only with their manifest, which is written last.

checkpoint-N/                   complete, or damaged
checkpoint-N/.being-written     not complete yet; a process that was cut off leaves it so
.checkpoint-N.before/           what was complete until the one of the same step is
.checkpoint-N.gone/             being removed
checkpoint-N.damaged/           set aside by a resume that passed it over
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.errors import CheckpointError
from toolkit.notices import json_text
from toolkit.reach import lies_in

PREFIX = "checkpoint-"
MANIFEST = "manifest.json"
STATE = "trainer_state.json"
_BEING_WRITTEN = ".being-written"
RUNNING_LOSS = "running_loss.json"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""That something is not there, or is another thing, is damage; any other trouble may be of the disk or the rights."""


def begin(folder: Path) -> None:
    """Make way for a checkpoint; one that is complete is kept until the new one is."""
    if (folder / MANIFEST).is_file():
        before = _hidden(folder, "before")
        clear(before)
        folder.rename(before)
    clear(folder)
    folder.mkdir(parents=True)
    (folder / _BEING_WRITTEN).touch()


def complete(folder: Path) -> None:
    """Write the manifest, once all else is on the disk: size and SHA-256 of every file of the checkpoint."""
    written = [path for path in folder.rglob("*") if path.name not in (MANIFEST, _BEING_WRITTEN)]
    files = sorted(path for path in written if path.is_file())
    all_onto_disk(folder)
    entries = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    }
    write_json(folder / MANIFEST, {"files": entries})
    (folder / _BEING_WRITTEN).unlink(missing_ok=True)
    _onto_disk(folder.parent)
    clear(_hidden(folder, "before"))


def give_up(folder: Path) -> None:
    """Remove a checkpoint that could not be completed, and have back the one that was there before."""
    clear(folder)
    bring_back(folder.parent)


def bring_back(parent: Path) -> None:
    """Undo what a process that was cut off has left half done."""
    for before in parent.glob(f".{PREFIX}*.before"):
        folder = parent / before.name.removeprefix(".").removesuffix(".before")
        if (folder / MANIFEST).is_file():
            clear(before)
        else:
            clear(folder)
            before.rename(folder)
    for gone in parent.glob(f".{PREFIX}*.gone"):
        shutil.rmtree(gone, ignore_errors=True)


def was_cut_off(folder: Path) -> bool:
    """Whether a checkpoint was never complete."""
    return (folder / _BEING_WRITTEN).exists() or not any(folder.iterdir())


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when it is as its manifest says.

    Raises:
        CheckpointError: it cannot be read, which may pass.
    """
    try:
        with _told_when_unreadable(folder / MANIFEST):
            entries = _mapping(folder / MANIFEST)["files"]
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in entries.items()}
    except (*_ABSENT, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "it was cut off while it was written" if was_cut_off(folder) else "it has no readable manifest"
    for name, (size, digest) in expected.items():
        path = folder / name
        try:
            with _told_when_unreadable(path):
                is_own = lies_in(path, [folder]) and stat.S_ISREG(path.stat().st_mode)
                if not is_own:
                    return f"'{name}' is no file of the checkpoint"
                if path.stat().st_size != size or sha256_of(path) != digest:
                    return f"'{name}' is not as it was written"
        except _ABSENT:
            return f"'{name}' is missing"
    return _damage_of_state(folder)


@contextlib.contextmanager
def _told_when_unreadable(path: Path) -> Iterator[None]:
    """What the system has against reading a file that is there, as an error of ours: it may pass."""
    try:
        yield
    except _ABSENT:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}",
            hint="see to the disk and to the rights, then try again: no checkpoint was touched",
        ) from error


def _damage_of_state(folder: Path) -> str | None:
    """What is written as it should be may still be nonsense, as of a checkpoint that was mended by hand."""
    try:
        with _told_when_unreadable(folder / STATE):
            state = _mapping(folder / STATE)
    except (*_ABSENT, ValueError, RecursionError):
        return f"'{STATE}' cannot be read"
    logged = state.get("log_history")
    if not isinstance(logged, list) or not all(isinstance(line, dict) for line in logged):
        return f"'{STATE}' holds no log"
    return None if state.get("global_step") == step_of(folder) else f"'{STATE}' is of another step"


def is_validated(folder: Path) -> bool:
    """Whether training had measured the validation rows at the checkpoint's step when it was written."""
    return any(
        line.get("step") == step_of(folder) and any(key.startswith("eval_") for key in line)
        for line in read_json(folder / STATE)["log_history"]
    )


def newest(parent: Path) -> Path | None:
    """The latest complete checkpoint in `parent`, or None; those that are damaged or cannot be read are passed over."""
    for folder in reversed(ordered(parent)):
        with contextlib.suppress(CheckpointError):
            if damage(folder) is None:
                return folder
    return None


def newest_and_damaged(parent: Path) -> tuple[Path | None, dict[Path, str]]:
    """The latest complete checkpoint, or None, and the later ones that are not, each with what is wrong with it."""
    unusable: dict[Path, str] = {}
    for folder in reversed(ordered(parent)):
        problem = damage(folder)
        if problem is None:
            return folder, unusable
        unusable[folder] = problem
    return None, unusable


def ordered(parent: Path) -> list[Path]:
    """The folders named checkpoint-N in `parent`, by N, complete or not."""
    if not parent.is_dir():
        return []
    found = [
        path for path in parent.iterdir() if path.is_dir() and path.name.removeprefix(PREFIX).isdecimal()
    ]
    return sorted((path for path in found if path.name.startswith(PREFIX)), key=step_of)


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name that counts as none, in place of what had it; what is whole in it is kept."""
    aside = folder.with_name(f"{folder.name}.damaged")
    clear(aside)
    folder.rename(aside)
    return aside


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
    bests = {_best_of(folder) for folder in kept}  # which a run that goes on from one of them needs
    for folder in folders:
        if folder not in kept and step_of(folder) not in bests:
            clear(folder)


def _best_of(folder: Path) -> int | None:
    """The step that a checkpoint holds to be the best so far, as far as it can be read."""
    with contextlib.suppress(CheckpointError):
        return read_json(folder / STATE).get("best_global_step")
    return None


def clear(folder: Path) -> None:
    """Remove a checkpoint, its name first, so that half of one is never found."""
    if folder.exists():
        gone = _hidden(folder, "gone")
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _hidden(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name.removeprefix('.')}.{what}")


def write_json(path: Path, data: Any) -> None:
    """Write plain data so that the file is there whole or not at all."""
    write_text(path, json_text(data, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text so that the file is there whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # a link would lead elsewhere
        partial.write_text(text, encoding="utf-8")
        _onto_disk(partial)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    _onto_disk(path.parent)


def all_onto_disk(folder: Path) -> None:
    """Have the system write a folder and all that is in it from memory to the disk."""
    for path in (*folder.rglob("*"), folder):
        _onto_disk(path)


def _onto_disk(path: Path) -> None:
    """Have the system write a file, or the names in a folder, from memory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The mapping that a file of a run holds.

    Raises:
        CheckpointError: it cannot be read, or is none.
    """
    try:
        return _mapping(path)
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}", hint="bring it back from a copy, or start another run"
        ) from None


def _mapping(path: Path) -> dict[str, Any]:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no file")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")
    return content


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
