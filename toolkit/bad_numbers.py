"""Losses and gradients that are no numbers: the step that has one never touches the weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from accelerate.utils import gather_object

from toolkit import checkpoint, ranks
from toolkit.data.rows import PreparedRows
from toolkit.errors import DataError, RunError
from toolkit.notices import say

if TYPE_CHECKING:
    from toolkit.resuming import ResumableTrainer

MOST_IN_A_ROW = 10
"""Steps that may be skipped one after the other: after more, the weights are beyond help."""
_NAMED = 8


class BadNumbers:
    """The losses of a step and its gradient, judged before the optimizer uses them."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer
        self.skipped: list[int] = []
        self.losses: list[tuple[float, list[int]]] = []
        self._sum_before: Any = 0.0
        """The trainer's sum of losses before the step."""

    def note(self, inputs: Any, loss: torch.Tensor) -> None:
        """Remember the loss of a micro-batch, and its rows."""
        if not self.losses:
            self._sum_before = self.trainer._tr_loss + 0  # a copy, for it is added to in place
        rows = inputs.get("row_id") if isinstance(inputs, Mapping) else None
        self.losses.append((float(loss), [] if rows is None else rows.tolist()))

    def judge(self, model: Any, gradient_norm: Any) -> None:
        """Take a bad step back, or end the run, as `on_nan_inf` says.

        Raises:
            RunError: the numbers are bad, and are to end the run, or too many steps in a row had such.
        """
        losses, self.losses = self.losses, []
        # In half precision accelerate's scaler looks for such gradients, and tries again with a smaller scale.
        is_scaled = self.trainer.accelerator.scaler is not None
        gradient_is_bad = not is_scaled and not math.isfinite(float(gradient_norm))
        if not self._on_any_rank(gradient_is_bad or not all(math.isfinite(loss) for loss, _ in losses)):
            return
        if self.trainer.args.world_size > 1:
            losses = gather_object(losses)  # so that all say the same, of the rows of any
        step = self.trainer.state.global_step + 1
        bad = [(loss, rows) for loss, rows in losses if not math.isfinite(loss)]
        what = f"the loss is {bad[0][0]}" if bad else f"the gradient is {float(gradient_norm)}"
        rows = [row for _, some in bad or losses for row in some]
        if getattr(self.trainer.args, "on_nan_inf", "stop") == "stop":
            self._end(
                f"step {step}: {what}, and no step was taken",
                rows,
                "look at the rows, lower train.learning_rate, or go on without such steps: "
                "--resume --set train.on_nan_inf=skip",
            )
        self._skip(model, step, what, rows)

    def mean_of_taken(self, mean: float, since: int, until: int) -> float:
        """The mean loss of the steps after `since` that were taken, of a mean that divides by all up to `until`."""
        skipped = sum(step > since for step in self.skipped)
        if not skipped:
            return mean
        taken = until - since - skipped
        return mean * (until - since) / taken if taken else math.nan

    def _on_any_rank(self, is_bad: bool) -> bool:
        if self.trainer.args.world_size == 1:
            return is_bad
        mine = torch.tensor(int(is_bad), device=self.trainer.args.device)
        return bool(self.trainer.accelerator.gather(mine).sum())

    def _skip(self, model: Any, step: int, what: str, rows: list[int]) -> None:
        if self.skipped[1 - MOST_IN_A_ROW :] == list(range(step - MOST_IN_A_ROW + 1, step)):
            self._end(
                f"step {step}: {what}, for the {MOST_IN_A_ROW}th time in a row",
                rows,
                "look at the rows, lower train.learning_rate, and start another run: the weights may be beyond help",
            )
        self.skipped.append(step)
        self.trainer._tr_loss = self._sum_before
        model.zero_grad()  # without gradients an optimizer leaves weights and its own state alone
        if self.trainer.state.is_world_process_zero:
            named = "; ".join(self._named(rows))
            say(f"step {step} is skipped: {what}" + (f"; its rows: {named}" if named else ""))

    def _end(self, what: str, rows: list[int], hint: str) -> NoReturn:
        error = self._error(what, rows, hint)
        ranks.first(functools.partial(_raise, error))  # which reports it
        raise error

    def _error(self, what: str, rows: list[int], hint: str) -> RunError:
        lines = [f"\n  {line}" for line in self._named(rows)]
        good = checkpoint.newest(Path(self.trainer.args.output_dir))
        saved = f"\nthe last good checkpoint: {good}" if good else "\nthere is no checkpoint yet"
        return RunError(what + ("; its rows:" + "".join(lines) if lines else "") + saved, hint)

    def _named(self, row_ids: list[int]) -> Iterator[str]:
        rows = self.trainer.train_dataset
        for row_id in row_ids[:_NAMED]:
            yield named(rows, row_id) if isinstance(rows, PreparedRows) else f"row {row_id}"
        if len(row_ids) > _NAMED:
            yield f"and {len(row_ids) - _NAMED} more"


def _raise(error: RunError) -> None:
    raise error


def named(rows: PreparedRows, row_id: int) -> str:
    """A row as its data calls it, with the files it names: `train row 3: train/metadata.csv, row 4 (a.wav)`."""
    place = next((place for place, one in enumerate(rows.row_ids) if one == row_id), None)
    if place is None:
        return f"{rows.split} row {row_id}"
    where = getattr(rows.rows, "place", None)
    told = f"{rows.split} row {row_id}" + (f": {where(place)}" if where is not None else "")
    files = _files(rows, place)
    return told + (f" ({', '.join(files)})" if files else "")


def _files(rows: PreparedRows, place: int) -> list[str]:
    try:
        values = [
            value for value in rows.rows[place].values() if isinstance(value, str) and len(value) < 1000
        ]
    except DataError:
        return []
    return [Path(value).name for value in values if "\0" not in value and Path(value).is_file()]
