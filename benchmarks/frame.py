"""What a workload is written with.

A module of workloads has `WORKLOADS`, and its name stands in `benchmarks.MODULES`. A workload is one task done in
several ways, its *sides*. Each side of each round runs in a process of its own, one at a time, in turn (A B A B):

    def toolkit(setting: Setting) -> Measured:
        import torch                                    # what is heavy is imported inside
        trainer, rows = made(setting)                   # not measured
        with measuring() as meter:
            trainer.train()
        return meter.measured(work={"rows": rows}, quality={"loss": evaluated(trainer)})

    WORKLOADS = [
        Workload(
            "chat-pairs",
            "LoRA on chat pairs of uneven length, the same rows, labels, steps and seed",
            sides=[Side("toolkit", toolkit), Side("trl", trl, needs=("trl",))],
            baseline="trl",
            targets=[Target("toolkit", "speed", at_least=2.5), Target("toolkit", "peak_mb", at_most=0.5)],
        )
    ]

- What a side reads and writes: `setting.model("llama")` and `setting.data("chats")` are names of the hub or absolute
  paths, as a recipe takes them; at the small size they are the bundled sample's folders. `setting.folder` is empty,
  this side's in this round, and removed afterwards: outputs go there, and caches that are to be cold (`cache.dir`).
  `setting.shared` is the workload's: what `prepare` wrote, and what one round leaves for the next (a warm cache).
- Seconds are those of the `with` block, and so are the CPU seconds and the peak memory. What happened before and after
  it (imports, loading, measuring quality) does not count; so put into it all that the other sides put into theirs.
- `work` is what was done, in units that are the same on all sides ("rows", "tokens", "steps"); the table shows it per
  second. `quality` stands beside every time ("loss", "wer", "recall@10"); a time without it says little.
- A target compares a side with the baseline by the median of the rounds' ratios. `speed` is the baseline's seconds
  over the side's; any other name is the side's value over the baseline's: `seconds`, `cpu_seconds`, `peak_mb`,
  `grown_mb`, `tokens/s` for work in tokens, or a quality. Targets are judged at full size unless `sizes` says more.
- A side whose `needs` cannot be imported is shown as not installed; one that raises, with its last line of error.
- One side alone, in this process, for a debugger or a profiler: `python -m benchmarks --side chat-pairs:toolkit`.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Size = Literal["small", "full"]
MIB = 2**20


@dataclass(frozen=True)
class Setting:
    """What a side is to be measured with."""

    size: Size
    models: Mapping[str, str]
    """By kind: whisper, llama, clip."""
    datasets: Mapping[str, str]
    """By kind: speech, chats, images."""
    folder: Path
    """Empty, and this side's alone in this round."""
    shared: Path
    """The workload's, over all its sides and rounds."""
    threads: int
    seed: int

    @property
    def small(self) -> bool:
        return self.size == "small"

    def model(self, kind: str) -> str:
        """Of `whisper`, `llama` or `clip`: a name or an absolute path."""
        return self.models[kind]

    def data(self, kind: str) -> str:
        """Of `speech`, `chats` or `images`: a name or an absolute path."""
        return self.datasets[kind]


@dataclass(frozen=True)
class Measured:
    """What one side did in one round."""

    seconds: float
    work: Mapping[str, float] = field(default_factory=dict)
    """How much was done, by unit."""
    quality: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float | None = None
    """Of this process, all threads, and of those that it waited for."""
    peak_mb: float | None = None
    """Highest resident memory while it was measured, in MiB, of this process or of the largest that it waited for."""
    before_mb: float | None = None
    """Resident memory when the measured part began, in MiB."""

    def value(self, name: str) -> float | None:
        """Of a time, a memory (`grown_mb`: peak less before), a work per second (`rows/s`) or a quality."""
        if name == "grown_mb":
            known = self.peak_mb is not None and self.before_mb is not None
            return self.peak_mb - self.before_mb if known else None  # type: ignore[operator]
        if name.endswith("/s") and name[:-2] in self.work:
            return self.work[name[:-2]] / self.seconds
        if name in self.quality:
            return self.quality[name]
        return getattr(self, name) if name in ("seconds", "cpu_seconds", "peak_mb", "before_mb") else None


@dataclass(frozen=True)
class Side:
    """One way to do the work."""

    name: str
    run: Callable[[Setting], Measured]
    needs: tuple[str, ...] = ()
    """Modules of peers, without which it is left out."""


@dataclass(frozen=True)
class Target:
    """A bound on a side's ratio to the baseline, or on the side's own value where `alone`."""

    side: str
    of: str
    """`speed`, or a name that `Measured.value` knows."""
    at_least: float | None = None
    at_most: float | None = None
    against: str | None = None
    """The side it is compared with; None is the workload's baseline."""
    alone: bool = False
    sizes: tuple[Size, ...] = ("full",)

    def ratio(self, mine: Measured, others: Measured | None) -> float | None:
        """Of one round, or the value where `alone`; None where one of them is missing."""
        if self.alone:
            return mine.value(self.of)
        if others is None:
            return None
        if self.of == "speed":
            return others.seconds / mine.seconds
        above, below = mine.value(self.of), others.value(self.of)
        return above / below if above is not None and below else None

    def met(self, ratio: float) -> bool:
        low, high = self.at_least, self.at_most
        return (low is None or ratio >= low) and (high is None or ratio <= high)

    def text(self, baseline: str) -> str:
        bounds = [(">=", self.at_least), ("<=", self.at_most)]
        bound = " and ".join(f"{sign} {value:g}" for sign, value in bounds if value is not None)
        than = "" if self.alone else f" x {self.against or baseline}"
        return f"{self.side}: {self.of} {bound}{than}"


@dataclass(frozen=True)
class Workload:
    """One task, done by each side with the same weights, rows, labels, steps and seed."""

    name: str
    summary: str
    sides: Sequence[Side]
    baseline: str
    """Name of the side that the others are compared with."""
    targets: Sequence[Target] = ()
    prepare: Callable[[Setting], None] | None = None
    """Called once before the rounds, in a process of its own; what it writes into `setting.shared` is there for all."""
    sizes: tuple[Size, ...] = ("small", "full")

    def side(self, name: str) -> Side:
        return next(side for side in self.sides if side.name == name)


class Meter:
    """Times and memory of a `with measuring() as meter` block."""

    def __init__(self) -> None:
        _forget_peak()
        self._children_mb = _peak_of_children_mb()
        self.before_mb = resident_mb()
        self._start = time.perf_counter(), _cpu_seconds()

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._start[0]
        self.cpu_seconds = _cpu_seconds() - self._start[1]
        children_mb = _peak_of_children_mb()  # of all so far: it tells of the block only where it has grown
        self.peak_mb = max(peak_mb(), children_mb if children_mb > self._children_mb else 0.0)

    def measured(self, work: Mapping[str, float], quality: Mapping[str, float] | None = None) -> Measured:
        return Measured(self.seconds, work, quality or {}, self.cpu_seconds, self.peak_mb, self.before_mb)


@contextmanager
def measuring() -> Iterator[Meter]:
    """Measure the seconds, CPU seconds and peak memory of the block."""
    meter = Meter()
    yield meter
    meter.stop()


def succeed(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run a program in silence.

    Raises:
        RuntimeError: it failed; with what it said last.
    """
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise RuntimeError(" | ".join(done.stderr.strip().splitlines()[-2:]) or f"status {done.returncode}")


def resident_mb() -> float:
    """Resident memory of this process, in MiB."""
    return _status("VmRSS") or peak_mb()


def peak_mb() -> float:
    """Highest resident memory of this process, on Linux since the measured part began, in MiB."""
    return _status("VmHWM") or _mebibytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _peak_of_children_mb() -> float:
    """Of the largest process that was waited for since this one began, in MiB."""
    return _mebibytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def _mebibytes(maxrss: int) -> float:
    return maxrss * (1 if sys.platform == "darwin" else 1024) / MIB


def _status(key: str) -> float | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
    return None


def _forget_peak() -> None:
    """Let the kernel count the peak from now on; where it cannot, the peak is the process's."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
