"""Commands of the toolkit in processes of their own: what a model took is given back when one ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from toolkit.errors import Interrupted

if TYPE_CHECKING:
    from toolkit.signals import Signals

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ended:
    """How a command ended, and the document it printed, if it did."""

    status: int
    document: Mapping[str, Any] | None

    @property
    def reason(self) -> str:
        """Why it failed, in a line."""
        if self.document is not None and self.document.get("errors"):
            return str(self.document["errors"][0]["message"]).splitlines()[0]
        if self.status == -signal.SIGKILL:
            return "killed, as the system does when memory runs out"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"ended with status {self.status}"


def carry_out(
    arguments: list[str],
    said: IO[bytes],
    *,
    signals: Signals | None = None,
    keep_open: tuple[int, ...] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Ended:
    """Run `toolkit ARGUMENTS --json` in a process that sees the packages this one sees.

    Args:
        said: where what it says on stderr goes.
        signals: what arrives here is passed on, once.
        keep_open: file descriptors that it inherits.
        stop: asked now and then; True ends it in good order.
    Raises:
        Interrupted: a signal ended it, here or there, which `stop` had not asked for.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "toolkit", *arguments, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C shall come to us alone
            pass_fds=keep_open,
        )
        was_stopped = _wait(process, signals, stop)
        printed.seek(0)
        text = printed.read().decode(errors="replace")
    if process.returncode and signals is not None and signals.received is not None:
        raise Interrupted(signals.received)
    if process.returncode in (130, 143) and not was_stopped:
        raise Interrupted(process.returncode - 128)
    return Ended(process.returncode, _document(text))


def _wait(process: subprocess.Popen[bytes], signals: Signals | None, stop: Callable[[], bool]) -> bool:
    """Wait for its end, and return whether it was `stop` that asked for it."""
    told = was_stopped = False
    try:
        while process.poll() is None:
            if not told and signals is not None and signals.received is not None:
                process.send_signal(signals.received)
                told = True
            elif not told and stop():
                process.terminate()
                told = was_stopped = True
            _pause(process)
    except BaseException:  # a second Ctrl-C
        process.kill()
        process.wait()
        raise
    return was_stopped


def _pause(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(POLL_SECONDS)


def _document(text: str) -> Mapping[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
