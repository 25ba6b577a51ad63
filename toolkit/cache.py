"""What is kept between runs: outputs of frozen stages, and of rows, on disk, each written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.checkpoint import read_json
from toolkit.environment import package_version
from toolkit.errors import CheckpointError
from toolkit.folder import expanded
from toolkit.lock import opened, taken
from toolkit.notices import say_once

if TYPE_CHECKING:
    from toolkit.recipe import Recipe

STAGE = "stage.json"
_IN_USE = "in-use-"
_NUMBERS = itertools.count()
"""Of this process's marks: it may use one folder several times."""
_LOCK = "lock"
_PATIENCE_SECONDS = 60.0
"""How long another process is waited for; a stopped one may never be done."""
_CHECKSUM = "crc32"
_HEADER = 160
"""Bytes in a file beside those of a tensor, about."""
_BLOCK = 4096
"""Bytes that a file takes are a multiple of, on most disks."""
GB = 10**9
_RECOUNT = 1 << 26
"""Bytes that a store writes at least until it looks at what others have written meanwhile."""
_AT_ONCE = 10_000
"""Rows that are found to be the longest unused."""
_SHARE = "share"
"""In `stage.json`: of a cache, which stores that say so may take together."""


def cache_folder(wanted: str | None = None) -> Path:
    """Where results are kept: `wanted`, or a folder of the user's cache.

    Raises:
        RecipeError: there can be no such folder.
    """
    if wanted is not None:
        return expanded(wanted)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "task-toolkit"


@dataclass(frozen=True)
class Kept:
    """What is kept of one stage.

    Attributes:
        facts: `stage`, `model`, and what else `stage.json` says of it.
        rows: how many outputs there are.
        bytes: on disk.
        used: when it was last used, in seconds since 1970.
    """

    folder: Path
    facts: Mapping[str, Any]
    rows: int
    bytes: int
    used: float

    @property
    def users(self) -> list[str]:
        """The numbers of processes that read or write it."""
        return sorted({mark.name.removeprefix(_IN_USE).split("-")[0] for mark in _marks(self.folder)})

    def remove(self) -> None:
        """First its name, so that nobody finds half of it; another process may have been quicker.

        Raises:
            OSError: it cannot be removed.
        """
        gone = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.gone")
        try:
            self.folder.rename(gone)
        except FileNotFoundError:
            return
        shutil.rmtree(gone, ignore_errors=True)


def clear_up(root: Path) -> None:
    """Remove what processes have left half removed that are no more."""
    for gone in root.glob("frozen/.*.gone"):
        if not _is_alive(gone.name.split(".")[-2]):
            shutil.rmtree(gone, ignore_errors=True)


def kept(root: Path) -> list[Kept]:
    """Everything in a cache, the longest unused first.

    Raises:
        OSError: it cannot be read.
    """
    found = []
    for path in root.glob(f"frozen/*/{STAGE}"):
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by another process
            found.append(_kept(path.parent))
    return sorted(found, key=lambda one: one.used)


def _kept(folder: Path) -> Kept:
    try:
        facts = read_json(folder / STAGE)
    except CheckpointError:
        facts = {}
    sizes = []
    for path in folder.glob("*/*.safetensors"):
        with contextlib.suppress(FileNotFoundError):
            sizes.append(_on_disk(path))
    for path in folder.glob("*/*.partial"):
        if not _is_alive(path.name.split(".")[-2]):
            path.unlink(missing_ok=True)
    return Kept(folder, facts, len(sizes), sum(sizes), (folder / STAGE).stat().st_mtime)


def _on_disk(path: Path) -> int:
    """Bytes that a file takes, which are whole blocks."""
    return path.lstat().st_blocks * 512


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class _Mark:
    """A locked file, by which others see that this process uses a folder; the system takes the lock back."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"{_IN_USE}{os.getpid()}-{next(_NUMBERS)}"
        hidden = self.path.with_name(f".{self.path.name}")
        self.file = opened(hidden, "w")
        taken(self.file)
        hidden.rename(self.path)  # so it is locked whenever it is seen

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()
        self.file.close()


def _marks(folder: Path) -> list[Path]:
    """Of those at work in a folder; what others have left is removed."""
    return [path for path in folder.glob(f"{_IN_USE}*") if _is_held(path)]


def _is_held(mark: Path) -> bool:
    try:
        with opened(mark, "r+") as file:  # a network's disk locks nothing that is only read
            if not taken(file):
                return True
        mark.unlink(missing_ok=True)
    except OSError as error:
        return isinstance(error, PermissionError)  # it is another user's, who may be at work
    return False


def _has_share(one: Kept) -> bool:
    return _SHARE in one.facts


class TensorStore:
    """Tensors on disk, a file per row, named by a digest of what they were made of."""

    def __init__(
        self, root: Path, key: str, facts: Mapping[str, Any], most_bytes: float, share: float = 1.0
    ) -> None:
        """`share`: how much of `most_bytes` stores that have less than all of it may take together."""
        self.root, self.folder = root, root / "frozen" / key
        self.facts, self.most_bytes, self.share = facts, most_bytes, share
        self.others: list[Kept] = []
        self.rows = self.bytes = 0
        self.until_count = 0.0
        """Bytes that may be written until it is time to look at what others have written meanwhile."""
        self.closed, self.patient = False, True
        self.mark: _Mark | None = None
        self.since = 0
        """When it was opened, in nanoseconds since 1970; what was read or written since then stays."""
        self.oldest: list[Path] = []
        """Some of its rows that were not, once there was need to know; the longest unused last."""

    def __getstate__(self) -> dict[str, Any]:
        """Without what is of this process alone: another one opens it for itself."""
        return {**vars(self), "mark": None}

    def open(self) -> None:
        """Begin to use it; the cache cannot be written to: nothing is kept, and a line says so."""
        facts = {**self.facts, **({_SHARE: self.share} if self.share < 1 else {})}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{STAGE}.{os.getpid()}.partial"
            with opened(partial, "w") as file:
                file.write(json.dumps(facts))
            partial.replace(self.folder / STAGE)
            self.mark = _Mark(self.folder)
            self.since = self.mark.path.stat().st_atime_ns
            clear_up(self.root)
        except OSError as error:
            self._give_up(error)

    def count(self) -> int:
        """Look at what is there, which takes the longer the more it is; how many rows are in this store."""
        everything = kept(self.root)
        mine = [one for one in everything if one.folder == self.folder]  # none where it was removed by hand
        self.others = [one for one in everything if one.folder != self.folder]
        self.rows, self.bytes = sum(one.rows for one in mine), sum(one.bytes for one in mine)
        free = self.most_bytes - self.bytes - sum(one.bytes for one in self.others)
        self.until_count = max(_RECOUNT, free / 8)
        return self.rows

    def shrink(self) -> None:
        """Let go of what is too much, as where it may be less than before."""
        if self.closed:
            return
        try:
            self.count()
            self._makes_room(0)
        except OSError as error:
            self._give_up(error)

    def forget(self) -> None:
        """Remove all rows."""
        for path in self.folder.glob("*/*.safetensors"):
            path.unlink(missing_ok=True)
        self.until_count = 0.0

    def close(self) -> None:
        if self.mark is not None:
            self.mark.remove()
            self.mark = None

    def read(self, key: str) -> dict[str, Any] | None:
        """The tensors of one row, or None where there are none, or damaged ones."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._place(key), framework="pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                if (file.metadata() or {}).get(_CHECKSUM) == _checksum(key, tensors):
                    self._note_use(self._place(key))
                    return tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            pass
        say_once(f"cache: what is damaged in {self.folder} is computed again")
        return None

    def _note_use(self, place: Path) -> None:
        """Once, where it was not used since; not every disk does so by itself."""
        with contextlib.suppress(OSError):
            seen = place.stat()
            if seen.st_atime_ns < self.since:
                os.utime(place, ns=(time.time_ns(), seen.st_mtime_ns))

    @contextlib.contextmanager
    def claimed(self, keys: Sequence[str]) -> Iterator[set[str]]:
        """Those of the rows that this process shall compute meanwhile, for no other one that is alive does.

        Nobody waits while it has claimed anything, so two processes never wait for each other; the kernel gives up what
        a dead one had claimed.
        """
        if self.closed:
            yield set(keys)
            return
        with contextlib.ExitStack() as stack:
            free = {name: stack.enter_context(self._lock(name)) for name in {key[:2] for key in keys}}
            yield {key for key in keys if free[key[:2]]}

    def awaited(self, keys: Sequence[str], stopping: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        """The tensors of rows that other processes have claimed, of those that are done in time.

        Who was once waited for in vain, as one that is suspended, is not waited for again.

        Args:
            stopping: whether nothing is worth waiting for any more.
        """
        found: dict[str, dict[str, Any]] = {}
        left, until = list(keys), time.monotonic() + _PATIENCE_SECONDS * self.patient
        while left:
            done = [key for key in left if self._is_free(key)]
            found |= {key: tensors for key in done if (tensors := self.read(key)) is not None}
            left = [key for key in left if key not in done]
            self.patient = self.patient and (not left or time.monotonic() < until)
            if not self.patient or stopping():
                break
            time.sleep(0.01 if left else 0)
        return found

    def _is_free(self, key: str) -> bool:
        with self._lock(key[:2]) as free:
            return free

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[bool]:
        """Whether this process has the lock of the keys that begin so; it has where nothing can be locked, too."""
        try:
            (self.folder / name).mkdir(exist_ok=True)
            file = opened(self.folder / name / _LOCK, "w")
        except OSError:
            yield True
            return
        with file:
            yield taken(file)

    def write(self, key: str, tensors: Mapping[str, Any]) -> None:
        """Keep the tensors of one row, if there is room."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if self.closed:
            return
        own = {name: _on_its_own(tensor) for name, tensor in tensors.items()}
        size = -(-sum(tensor.nbytes + _HEADER for tensor in own.values()) // _BLOCK) * _BLOCK
        place = self._place(key)
        partial = place.with_suffix(f".{os.getpid()}.partial")
        try:
            if not self._has_room(size):
                return
            place.parent.mkdir(exist_ok=True)
            partial.unlink(missing_ok=True)  # a link would lead elsewhere
            save_file(own, partial, metadata={_CHECKSUM: _checksum(key, own)})
            partial.rename(place)
            size = _on_disk(place)
            self.rows, self.bytes, self.until_count = (
                self.rows + 1,
                self.bytes + size,
                self.until_count - size,
            )
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            self._give_up(error)

    def _has_room(self, size: int) -> bool:
        """Make room, from what has been unused the longest; what this run keeps is not taken from it."""
        if self.until_count <= 0:
            self.count()
        if self._makes_room(size):
            return True
        say_once(
            f"cache: full at {self.most_bytes / GB:.3g} GB (cache.max_gb); what does not fit is computed each time; "
            f"toolkit cache --clear --dir {self.root} empties it"
        )
        self.closed = True
        return False

    def _makes_room(self, size: int) -> bool:
        shared = self.share == 1 or self._makes_room_beside(size, self.share * self.most_bytes, _has_share)
        return shared and self._makes_room_beside(size, self.most_bytes, lambda one: True)

    def _makes_room_beside(self, size: int, most: float, counts: Callable[[Kept], bool]) -> bool:
        """Whether there is room for more beside this store and those of the others that count.

        Of these some are removed, then rows of this one.
        """

        def fits() -> bool:
            return self.bytes + sum(one.bytes for one in self.others if counts(one)) + size <= most

        for one in filter(counts, self.others[:]):
            if not fits() and not one.users:
                one.remove()
                self.others.remove(one)
        while not fits():
            if not self._removes_oldest():
                return False
        return True

    def _removes_oldest(self) -> bool:
        """Whether there was a row that nobody at work has used, and is gone."""
        if self.mark is None or _marks(self.folder) != [self.mark.path]:
            return False
        self.oldest = self.oldest or self._unused()
        while self.oldest:
            path = self.oldest.pop()
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_atime_ns < self.since:  # it may have been read meanwhile
                    size = _on_disk(path)
                    path.unlink()
                    self.rows, self.bytes = self.rows - 1, self.bytes - size
                    return True
            self.oldest = self.oldest or self._unused()
        return False

    def _unused(self) -> list[Path]:
        """Not all at once: there may be millions."""

        def last_used() -> Iterator[tuple[int, Path]]:
            for path in self.folder.glob("*/*.safetensors"):
                with contextlib.suppress(FileNotFoundError):
                    yield path.lstat().st_atime_ns, path

        unused = (one for one in last_used() if one[0] < self.since)
        return [path for _, path in reversed(heapq.nsmallest(_AT_ONCE, unused))]

    def _give_up(self, error: Exception) -> None:
        self.closed = True
        reason = getattr(error, "strerror", None) or str(error)
        say_once(
            f"cache: {self.folder} cannot be written ({reason}); what is there is read, nothing is added"
        )

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _on_its_own(tensor: Any) -> Any:
    """A copy, one value after the other in memory, which it shares with no other tensor."""
    import torch

    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _checksum(key: str, tensors: Mapping[str, Any]) -> str:
    """Of all that a file says: whose row it is, and each tensor's name, kind, shape and values."""
    import torch

    kinds = [(name, str(one.dtype), tuple(one.shape)) for name, one in sorted(tensors.items())]
    value = zlib.crc32(repr((key, kinds)).encode())
    for name, *_ in kinds:
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy(), value)
    return f"{value:08x}"


class RowCache:
    """What a plugin makes of rows before anything random is done to them, kept by their content, as the recipe says.

    It may take half of what the cache may hold, so that there is room for what is dearer to compute. Each process that
    uses it, such as a worker that loads data, opens it for itself.
    """

    def __init__(self, recipe: Recipe, name: str, **facts: Any) -> None:
        """`facts`: JSON values, everything but the row that the result depends on: settings, versions."""
        cache, about = recipe.cache, [name, facts, package_version("task-toolkit")]
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self.enabled, self.opened = cache.enabled, 0
        described = {"stage": name, "model": recipe.model.name, **facts}  # several models may share it
        self.store = TensorStore(cache_folder(cache.dir), key, described, cache.max_gb * GB, share=0.5)

    def get(self, key: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The tensors of one row.

        Args:
            key: a digest of the row's content.
            compute: makes them where they are not there; what it raises is not kept.
        """
        if not self.enabled:
            return compute()
        if self.opened != os.getpid():
            self._open()
        tensors = self.store.read(key)
        if tensors is None:
            tensors = compute()
            self.store.write(key, tensors)
        return tensors

    def _open(self) -> None:
        self.opened = os.getpid()
        self.store.open()
        if parent_process() is None:  # the rest is for workers, of which there are new ones in each epoch
            self.store.shrink()
        Finalize(self, self.store.close, exitpriority=0)
