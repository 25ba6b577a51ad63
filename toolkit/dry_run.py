"""One real step of a run, evaluated, saved, loaded and evaluated again, in a folder that will be thrown away."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from toolkit.data.splits import Rows
from toolkit.execution import Execution
from toolkit.folder import RunFolder
from toolkit.opening import open_trained
from toolkit.plugins import Plugins
from toolkit.recipe import Recipe
from toolkit.signals import Signals

FEW_ROWS = 8
TOLERANCE = 1e-3
"""Relative; metrics of a model and of itself loaded again may differ by the order of sums on a GPU."""
_ONE_STEP = {
    "max_steps": 1, "warmup_steps": 0, "warmup_ratio": None, "eval_strategy": "no", "eval_on_start": None,
    "save_strategy": "no", "report_to": "none", "load_best_model_at_end": None, "metric_for_best_model": None,
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What one step took and what came of it.

    Attributes:
        seconds_per_step: with the reading of its rows.
        seconds_per_row: of the evaluation.
        peak_bytes: of the device's memory, or of the whole process where that is the CPU.
        metrics: of the trained model on a few rows; `reloaded`: of the same one once saved and loaded.
    """

    device: str
    seconds_per_step: float
    seconds_per_row: float
    peak_bytes: int
    rows: int
    metrics: Mapping[str, float]
    reloaded: Mapping[str, float]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def loss_is_finite(self) -> bool:
        return math.isfinite(self.metrics["loss"])

    def differences(self) -> list[str]:
        """Where the reloaded model's metrics are others."""
        return [
            f"{name} {self.metrics[name]:.6g}, then {again:.6g}"
            for name, again in self.reloaded.items()
            if not _same(self.metrics[name], again)
        ]


def carry_out(
    plugins: Plugins, splits: Mapping[str, Rows], model: Any, processor: Any, folder: Path
) -> Outcome:
    """Train `model` one step, evaluate, save into `folder`, load and evaluate again; the model is used up."""
    plugins = plugins.with_recipe(
        plugins.recipe.override(train=_ONE_STEP, eval={"early_stopping_patience": None})
    )
    measured = next((splits[name] for name in ("test", "validation") if name in splits), splits["train"])
    few = {"train": splits["train"], "validation": measured[:FEW_ROWS]}
    files, clock = RunFolder(folder), _Clock()
    folder.mkdir()
    with Signals().listening() as signals:
        execution = Execution(plugins, files, few, model, processor, signals)
        execution.trainer.add_callback(clock)
        execution.trainer.train()
        signals.poll()
        started = time.monotonic()
        metrics = execution.evaluate("validation")
        seconds = time.monotonic() - started
        rows = execution.used("validation")
        execution.trainer.save_model(str(files.model))
        device = execution.arguments.device.type
        execution.trainer.release_model()
        again = Execution(plugins, files, few, *open_trained(plugins, files), signals, training=False)
        reloaded = again.evaluate("validation")
    return Outcome(device, clock.seconds, seconds / max(rows, 1), clock.peak_bytes, rows, metrics, reloaded)


def hours(
    outcome: Outcome, recipe: Recipe, splits: Mapping[str, Rows], steps: Mapping[str, int]
) -> dict[str, float]:
    """How long the whole run will take at this pace, in hours: its training and its evaluations."""
    rows = {name: len(part) for name, part in splits.items()}
    before_and_after = rows.get("test", rows.get("validation", 0)) * (1 + recipe.eval.before)
    evaluated = before_and_after + rows.get("validation", 0) * _evaluations(recipe.train, steps)
    training = steps["total"] * outcome.seconds_per_step / 3600
    evaluation = evaluated * outcome.seconds_per_row / 3600
    return {"training": training, "evaluation": evaluation, "total": training + evaluation}


def _evaluations(train: Mapping[str, Any], steps: Mapping[str, int]) -> int:
    """How often the run evaluates while it trains."""
    strategy = train.get("eval_strategy", "no")
    if strategy == "epoch":
        return math.ceil(steps["total"] / steps["per_epoch"])
    if strategy == "steps":
        every = train.get("eval_steps") or train.get("logging_steps", 10)
        return int(steps["total"] // (every if every >= 1 else math.ceil(every * steps["total"])))
    return 0


class _Clock(TrainerCallback):
    """The time from the beginning to the end of the only step, and the most memory used by then."""

    seconds, peak_bytes = 0.0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self.seconds = -time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds += time.monotonic()
        on_gpu = args.device.type == "cuda"
        self.peak_bytes = torch.cuda.max_memory_allocated() if on_gpu else _peak_of_process()


def _peak_of_process() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _same(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-6) or (
        math.isnan(one) and math.isnan(other)
    )
