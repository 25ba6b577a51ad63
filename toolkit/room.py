"""A disk that is full, in words that help."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolkit import checkpoint
from toolkit.errors import CheckpointError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM = "no room is left for"
_IN_TEXT = re.compile(rf"os error ({'|'.join(map(str, _FULL))})\b|file write failed|unexpected pos \d+ vs")
"""As safetensors and torch say it, which raise no OSError."""


@contextmanager
def told_when_full(folder: Path, checkpoints: Path) -> Iterator[None]:
    """Meanwhile a write for which there is no room is an error of ours.

    Raises:
        RunError: the disk of `folder` is full.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        begun = any((folder / name).exists() for name in ("recipe.yaml", "search.json"))
        go_on = f"toolkit resume {folder}" if begun else "begin the run again"
        if (elsewhere := _elsewhere(error, folder)) is not None:
            raise RunError(
                f"{NO_ROOM} {elsewhere}: {_size(_free(elsewhere))} are free there",
                hint=f"make room there, then: {go_on}",
            ) from error
        raise RunError(
            f"{NO_ROOM} {folder}: {_size(_free(folder))} are free{_needed(checkpoints)}",
            hint=f"make room (train.save_total_limit keeps fewer checkpoints), then: {go_on}",
        ) from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what led to it, is of a disk, a quota or a limit that is full."""
    return error is not None and any(
        (isinstance(one, OSError) and one.errno in _FULL) or _IN_TEXT.search(str(one))
        for one in _led_to(error)
    )


def _led_to(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what led to it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _elsewhere(error: BaseException, folder: Path) -> Path | None:
    """The file that could not be written, as far as that is told, where it lies on another disk than the run."""
    for one in _led_to(error):
        if isinstance(one, OSError) and one.errno in _FULL and isinstance(one.filename, str):
            place = Path(one.filename)
            return place if _there(place).stat().st_dev != _there(folder).stat().st_dev else None
    return None


def _there(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(one for one in (path, *path.absolute().parents) if one.exists())


def _free(folder: Path) -> int:
    return shutil.disk_usage(_there(folder)).free


def _needed(checkpoints: Path) -> str:
    """What a checkpoint takes, where there is one to tell."""
    there = checkpoint.ordered(checkpoints)
    try:
        files = checkpoint.read_json(there[-1] / checkpoint.MANIFEST)["files"] if there else {}
        size = sum(one["size"] for one in files.values())
    except (CheckpointError, KeyError, TypeError):
        return ""
    return f", a checkpoint takes {_size(size)}" if size else ""


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
