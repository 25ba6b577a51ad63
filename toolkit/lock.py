"""One process at work in a folder: a lock that the system takes back however the process ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from toolkit import ranks
from toolkit.errors import CheckpointError

LOCK = ".lock"
_held: set[int] = set()


@contextmanager
def locked(folder: Path, what: str = "run") -> Iterator[int]:
    """Keep others from working in a folder, which exists; the lock's descriptor may be passed on to a process.

    Raises:
        CheckpointError: another process is at work in it.
    """
    if not ranks.is_first():
        yield -1
        return
    file = _taken_or_refused(folder, what)
    try:
        _held.add(file.fileno())
        _sign(file)
        yield file.fileno()
    finally:
        _held.discard(file.fileno())
        (folder / LOCK).unlink(missing_ok=True)
        file.close()


def refuse_at_work(folder: Path, what: str = "run") -> None:
    """Raise `CheckpointError` if a process is at work in a folder."""
    if not ranks.is_first():
        return
    _refuse_no_file(folder / LOCK)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), (folder / LOCK).open() as file:
        if not taken(file, fcntl.LOCK_SH):  # the other kind would need a file that can be written to
            raise _at_work(folder, what, file)


def opened(path: Path, mode: str) -> IO[str]:
    """A file to write to, which no link leads to: that may be anyone's.

    Raises:
        OSError: it is a link, or cannot be written.
    """
    return open(path, mode, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def _refuse_no_file(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise CheckpointError(
                f"{path} is a link or a folder: nothing can be locked by it",
                hint="remove it, or name another folder",
            )


def _taken_or_refused(folder: Path, what: str) -> IO[str]:
    path = folder / LOCK
    _refuse_no_file(path)
    while True:
        file = opened(path, "a+")
        if not taken(file):
            with file:
                raise _at_work(folder, what, file)
        with contextlib.suppress(FileNotFoundError):  # who ends takes the file away, maybe just now
            if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                return file
        file.close()


def taken(file: IO[str], kind: int = fcntl.LOCK_EX) -> bool:
    """Take the lock of an open file, unless another has it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _sign(file: IO[str]) -> None:
    file.truncate(0)
    signature = {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": f"{datetime.now().astimezone():%Y-%m-%d %H:%M:%S %Z}",
    }
    file.write(json.dumps(signature))
    file.flush()


def _at_work(folder: Path, what: str, file: IO[str]) -> CheckpointError:
    file.seek(0)
    try:
        by = json.loads(file.read())
        who = f"process {by['pid']} on {by['host']}, since {by['since']}"
    except (ValueError, KeyError, TypeError):
        who = "a process that has not said which"
    return CheckpointError(
        f"another {what} is at work in {folder}: {who}",
        hint="wait until it has ended, or name another folder",
    )


def _let_go() -> None:
    """In a forked process, such as a data worker, which may outlive the one that holds the lock."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
