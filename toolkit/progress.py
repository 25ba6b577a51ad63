"""What a run shows while it works: a line that moves on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from toolkit.metrics import Sample
from toolkit.notices import say

SECONDS_BETWEEN_LINES = 10.0
TIMING = ("runtime", "samples_per_second", "steps_per_second", "epoch", "model_preparation_time")
"""What upstream's metrics say of the measuring."""
LONGEST_LINE = 200


class Progress(TrainerCallback):
    """Steps, loss, time left, and how much is processed a second."""

    def __init__(self) -> None:
        self.on_terminal = sys.stderr.isatty()
        self.loss: float | None = None
        self.work: dict[str, float] = defaultdict(float)
        self._bar: Any = None
        self._started = 0.0
        self._last_line = time.monotonic()
        self._first_step = 0
        self._evaluated = 0

    def count(self, work: Mapping[str, float]) -> None:
        """Add amounts that a batch says it processed."""
        for unit, amount in work.items():
            self.work[unit] += amount

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = self._last_line = time.monotonic()
        self._first_step = state.global_step
        self.work.clear()
        if self.on_terminal:
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(
                "training", total=state.max_steps, completed=state.global_step, note=""
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=state.global_step, note=self._note())
        elif self._is_time() or state.global_step == state.max_steps:
            say(f"step {state.global_step}/{state.max_steps}  {self._note()}  {self._left(state)} left")

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self._evaluated += 1
        note = f"evaluating: batch {self._evaluated}/{len(eval_dataloader)}"
        if self._bar is not None:
            self._bar.update(self._task, note=note)
        elif self._is_time():
            say(note)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._evaluated = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.loss = logs["loss"]
        measured = {name: value for name, value in (logs or {}).items() if name.startswith("eval_")}
        if measured and self._started:
            say(f"step {state.global_step}  validation: {shown(measured, 'eval_')}")

    def stop(self) -> None:
        """Take the moving line off the terminal, however training ended."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def _is_time(self) -> bool:
        """Whether the last plain line is long enough ago for another."""
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES:
            return False
        self._last_line = now
        return True

    def _note(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-6)
        parts = [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"{amount / seconds:.1f} {unit}/s" for unit, amount in self.work.items()]
        return "  ".join(parts)

    def _left(self, state: Any) -> str:
        done = state.global_step - self._first_step
        seconds = (time.monotonic() - self._started) / max(done, 1) * (state.max_steps - state.global_step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def shown(metrics: Mapping[str, float], prefix: str = "") -> str:
    """Metrics on one line, less what says how long the measuring took."""
    kept = {
        name.removeprefix(prefix): value for name, value in metrics.items() if isinstance(value, int | float)
    }
    return "  ".join(f"{name} {value:.4f}" for name, value in kept.items() if name not in TIMING)


def show_samples(samples: Sequence[Sample]) -> None:
    """What should have been said, above what the model says."""
    for one in samples:
        row = f"row {one.row_id}"
        say(f"  {row}  reference   {_line(one.reference)}")
        say(f"  {' ' * len(row)}  prediction  {_line(one.prediction)}")


def _line(value: str | float) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE - 3] + "..."


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Bar(*columns, TextColumn("{task.fields[note]}", markup=False), console=Console(stderr=True))
