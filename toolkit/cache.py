"""What is kept between runs: outputs of frozen stages, and of rows, on disk, each written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.checkpoint import read_json
from toolkit.errors import CheckpointError
from toolkit.folder import expanded
from toolkit.lock import opened, taken
from toolkit.notices import say_once

if TYPE_CHECKING:
    from toolkit.recipe import Recipe

STAGE = "stage.json"
_IN_USE = "in-use-"
_LOCK = "lock"
_PATIENCE_SECONDS = 60.0
"""How long another process is waited for; a stopped one may never be done."""
_CHECKSUM = "crc32"
_HEADER = 160
"""Bytes in a file beside those of a tensor, about."""
GB = 10**9
_RECOUNT = 1 << 26
"""Bytes that a store writes until it looks at what others have written meanwhile."""


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
    def in_use(self) -> bool:
        """Whether a process that is alive reads or writes it."""
        return any(_is_alive(path) for path in self.folder.glob(f"{_IN_USE}*"))

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
    sizes = [path.lstat().st_size for path in folder.glob("*/*.safetensors")]
    return Kept(folder, facts, len(sizes), sum(sizes), (folder / STAGE).stat().st_mtime)


def _is_alive(mark: Path) -> bool:
    try:
        os.kill(int(mark.name.removeprefix(_IN_USE)), 0)
    except (ValueError, OverflowError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


class StageStore:
    """The outputs of one stage, a file per row, named by what went in."""

    def __init__(self, root: Path, key: str, facts: Mapping[str, Any], most_bytes: float) -> None:
        self.root, self.folder = root, root / "frozen" / key
        self.facts, self.most_bytes = facts, most_bytes
        self.rows = self.bytes = self.others = self.uncounted = 0
        self.closed = False

    def open(self) -> None:
        """Begin to use it; the cache cannot be written to: nothing is kept, and a line says so."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = self.folder / f".{STAGE}.{os.getpid()}.partial"
            with opened(partial, "w") as file:
                file.write(json.dumps(self.facts))
            partial.replace(self.folder / STAGE)
            opened(self.folder / f"{_IN_USE}{os.getpid()}", "w").close()
            self._count()
        except OSError as error:
            self._give_up(error)

    def _count(self) -> None:
        everything = kept(self.root)
        mine = [one for one in everything if one.folder == self.folder]  # none where it was removed by hand
        self.rows, self.bytes, self.uncounted = (
            sum(one.rows for one in mine),
            sum(one.bytes for one in mine),
            0,
        )
        self.others = sum(one.bytes for one in everything) - self.bytes

    def close(self) -> None:
        with contextlib.suppress(OSError):
            (self.folder / f"{_IN_USE}{os.getpid()}").unlink()

    def read(self, key: str) -> dict[str, Any] | None:
        """The tensors of one row, or None where there are none, or damaged ones."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._place(key), framework="pt") as file:
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
                if (file.metadata() or {}).get(_CHECKSUM) == _checksum(tensors):
                    return tensors
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            pass
        say_once(f"cache: what is damaged in {self.folder} is computed again")
        return None

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

    def awaited(self, key: str) -> dict[str, Any] | None:
        """The tensors of a row that another process has claimed, or None where it is not done in time."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < until:
            with self._lock(key[:2]) as free:
                if free:
                    return self.read(key)
            time.sleep(0.01)
        return None

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

        size = sum(tensor.nbytes + _HEADER for tensor in tensors.values())
        if self.closed:
            return
        place = self._place(key)
        partial = place.with_suffix(f".{os.getpid()}.partial")
        try:
            if not self._has_room(size):
                return
            place.parent.mkdir(exist_ok=True)
            partial.unlink(missing_ok=True)  # a link would lead elsewhere
            save_file(dict(tensors), partial, metadata={_CHECKSUM: _checksum(tensors)})
            partial.rename(place)
            size = place.stat().st_size
            self.rows, self.bytes, self.uncounted = self.rows + 1, self.bytes + size, self.uncounted + size
            if self.uncounted > _RECOUNT:
                self._count()
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            self._give_up(error)

    def _has_room(self, size: int) -> bool:
        """Make room, from what has been unused the longest; what this run keeps is not taken from it."""
        if self.bytes + self.others + size <= self.most_bytes:
            return True
        for one in kept(self.root):
            if one.folder != self.folder and not one.in_use:
                one.remove()
                self.others -= one.bytes
                if self.bytes + self.others + size <= self.most_bytes:
                    return True
        say_once(
            f"cache: full at {self.most_bytes / GB:.3g} GB (cache.max_gb); what does not fit is computed each time"
        )
        self.closed = True
        return False

    def _give_up(self, error: Exception) -> None:
        self.closed = True
        reason = getattr(error, "strerror", None) or str(error)
        say_once(f"cache: {self.folder} cannot be written ({reason}); results are computed each time")

    def _place(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"


def _checksum(tensors: Mapping[str, Any]) -> str:
    import torch

    value = 0
    for name in sorted(tensors):
        flat = tensors[name].contiguous().flatten().view(torch.uint8)
        value = zlib.crc32(flat.numpy(), value)
    return f"{value:08x}"


class RowCache:
    """What a plugin makes of rows before anything random is done to them, kept by their content, as the recipe says.

    It may take half of what the cache may hold, so that there is room for what is dearer to compute. Each process that
    uses it, such as a worker that loads data, opens it for itself.
    """

    def __init__(self, recipe: Recipe, name: str, **facts: Any) -> None:
        """`facts`: JSON values, everything but the row that the result depends on: settings, versions."""
        cache, key = (
            recipe.cache,
            hashlib.sha256(json.dumps([name, facts], sort_keys=True).encode()).hexdigest(),
        )
        described = {"stage": name, **facts}
        self.enabled, self.opened = cache.enabled, 0
        self.store = StageStore(cache_folder(cache.dir), key, described, cache.max_gb * GB / 2)

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
        Finalize(self, self.store.close, exitpriority=0)
