"""What a run's callbacks write down, and say, while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from toolkit import ranks
from toolkit.folder import RunFolder
from toolkit.metrics import SAMPLES
from toolkit.notices import say
from toolkit.progress import TIMING, show_samples
from toolkit.trainer import Trainer

PREFIXES = {"eval_": "validation", "test_": "test", "train_": "train"}


class MetricsFile(TrainerCallback):
    """Writes what is logged to `metrics.jsonl`, a line a split."""

    def __init__(self, files: RunFolder) -> None:
        self.files = files

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        prefix = prefix_of(logs)
        values = {name.removeprefix(prefix): value for name, value in logs.items()}
        self.files.add_metrics(state.global_step, PREFIXES.get(prefix, "train"), without_timing(values))


class Changes(TrainerCallback):
    """Has what was changed written down once the checkpoint is taken up: one that cannot be leaves all as it was."""

    def __init__(self, write: Callable[[], None]) -> None:
        self.write = write

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        ranks.first(self.write)


class EarlyStopping(EarlyStoppingCallback):
    """Upstream's, which also says that it ends training."""

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        name = args.metric_for_best_model.removeprefix("eval_")
        if f"eval_{name}" not in metrics:  # of the rows that are measured before and after
            return
        super().on_evaluate(args, state, control, metrics, **kwargs)
        if (
            self.early_stopping_patience_counter == self.early_stopping_patience
            and state.is_world_process_zero
        ):
            known = f" of step {state.best_global_step}" if state.best_global_step else ""
            say(
                f"stopped early, at step {state.global_step}: {name} was no better than {state.best_metric:.4g}"
                f"{known} in {self.early_stopping_patience} evaluations"
            )


class SamplesFile(TrainerCallback):
    """Writes the samples of each evaluation to `samples.jsonl`, and shows those of evaluations within training."""

    def __init__(self, files: RunFolder, trainer: Trainer) -> None:
        self.files, self.trainer = files, trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        split = PREFIXES[prefix_of(metrics)]
        for sample in self.trainer.samples[:SAMPLES]:
            self.files.add_sample(state.global_step, split, sample)
        if self.trainer.is_in_train:
            show_samples(self.trainer.samples)


def prefix_of(metrics: Mapping[str, float]) -> str:
    """What the metrics of an evaluation begin with, none for a line of training."""
    return next(
        (prefix for prefix in ("eval_", "test_") if any(key.startswith(prefix) for key in metrics)), ""
    )


def without_timing(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in TIMING}
