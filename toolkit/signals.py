"""Signals asked for between steps: SIGINT and SIGTERM end a run in good order, SIGUSR1 saves and goes on."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from toolkit import ranks
from toolkit.errors import Interrupted
from toolkit.notices import say

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_PASSED_ON = 1.0
"""Seconds within which `torchrun` passes on a signal that a terminal has sent to its processes too."""


class Signals(TrainerCallback):
    """Notes what arrives; polled by training at each step and by evaluation at each batch."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.polled = False
        self._save = False
        self._since = 0.0
        self.stopping = False
        """Whether training ends at this step because of one."""

    @contextmanager
    def listening(self) -> Iterator[Signals]:
        """Take over the process's handlers for the time of the run (the main thread alone can)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {number: signal.signal(number, self._note) for number in (*_STOPPING, signal.SIGUSR1)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            self._save = True
        elif self.received is not None and number == signal.SIGINT:
            if ranks.count() == 1 or time.monotonic() - self._since > _PASSED_ON:
                _end_workers()
                raise KeyboardInterrupt
        elif self.received is None:
            self.received, self._since = number, time.monotonic()
            if not self.polled:
                raise Interrupted(number)
            say(f"{signal.Signals(number).name}: stopping after this step")

    def poll(self) -> None:
        """Raise `Interrupted` if a signal has asked for the end. From the first call on, signals wait for the next.

        Of several processes each has to call it as often as the others.
        """
        self.polled = True
        received, _ = self._agreed()
        if received is not None:
            raise Interrupted(received)

    def _agreed(self) -> tuple[int | None, bool]:
        """The signal that asks for the end, and whether one asks to save: of several processes what any has received.

        One that arrives meanwhile waits for the next time.
        """
        received, save = ranks.highest(self.received or 0, self._save)
        self.received = self.received or received or None
        return received or None, bool(save)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        received, save = self._agreed()
        self.stopping = received is not None
        if save or self.stopping:
            control.should_save, self._save = True, False
        if self.stopping:
            control.should_training_stop = True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        ends = float(state.epoch).is_integer() or state.global_step >= state.max_steps
        if self.stopping and not ends:  # stopped in the midst of it
            control.should_log = control.should_evaluate = control.should_save = False
        return control


def _end_workers() -> None:
    """Data workers answer to no signal that can be ignored, and one may hang, which would be waited for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # that they end so is no fault
    for worker in multiprocessing.active_children():
        worker.kill()
