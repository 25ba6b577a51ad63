"""One run in progress: rows, model and trainer put together, then measured, trained, measured again, saved."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed

from toolkit import checkpoint
from toolkit.adapters import adapt
from toolkit.arguments import training_arguments
from toolkit.card import write_card
from toolkit.data.columns import name_columns
from toolkit.data.fingerprint import fingerprint
from toolkit.data.rows import PreparedRows, Quarantine
from toolkit.data.sources import data_from_objects, open_splits
from toolkit.data.splits import Rows, limited, with_validation
from toolkit.environment import environment
from toolkit.errors import Interrupted
from toolkit.folder import SCHEMA, RunFolder
from toolkit.metrics import Scores
from toolkit.notices import say
from toolkit.plugins import Plugins
from toolkit.progress import Progress, shown
from toolkit.quantization import keep_unpacked
from toolkit.signals import Signals
from toolkit.trainer import Trainer

_TIMING = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
_PREFIXES = {"eval_": "validation", "test_": "test", "train_": "train"}


class Execution:
    """Everything a run needs, opened; nothing of it is on disk yet."""

    def __init__(self, plugins: Plugins, files: RunFolder, splits: Mapping[str, Rows], model: Any, processor: Any,
                 signals: Signals, *, training: bool = True) -> None:  # fmt: skip
        self.plugins, self.files, self.signals = plugins, files, signals
        self.recipe = plugins.recipe
        self.model, self.processor = model, processor
        self.progress = Progress()
        self.splits = splits
        self.arguments = self._arguments(training)
        prepare = plugins.prepare(processor)
        self.rows = {
            name: PreparedRows(name, rows, rows.ids, prepare, plugins.augment() if name == "train" else (),
                               self.arguments.seed)
            for name, rows in splits.items()
        }  # fmt: skip
        self.quarantine = Quarantine(
            {name: len(rows) for name, rows in splits.items()},
            self.recipe.data.max_bad_fraction,
            stop_at_first=self.recipe.data.on_error == "stop",
            record=files.add_bad_row if training else lambda bad: None,
        )
        self.trainer = self._trainer(training)

    def _arguments(self, training: bool) -> Any:
        higher_is_better = Scores(self.plugins.metrics(self.processor)).higher_is_better()
        best = str(self.recipe.train.get("metric_for_best_model", "loss")).removeprefix("eval_")
        derived = {"greater_is_better": higher_is_better[best]} if best in higher_is_better else {}
        values = dict(self.recipe.train)
        if not training:
            values |= {"report_to": "none", "push_to_hub": False}
        return training_arguments(values, self.files.checkpoints, **derived)

    def _trainer(self, training: bool) -> Trainer:
        callbacks: list[TrainerCallback] = [self.signals, self.progress]
        if training:
            callbacks.append(_MetricsFile(self.files))
        trainer = Trainer(
            model=self.model,
            args=self.arguments,
            train_dataset=self.rows.get("train"),
            eval_dataset=self.rows.get("validation"),
            processing_class=self.processor,
            callbacks=callbacks,
            plugins=self.plugins,
            quarantine=self.quarantine,
            on_work=self.progress.count,
            interrupted=self.signals.poll,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    # ---- the run -------------------------------------------------------------------------------------------

    @property
    def measured_split(self) -> str | None:
        """Where before and after are measured: `test` if there is one, else `validation`."""
        return next((split for split in ("test", "validation") if split in self.rows), None)

    def carry_out(self, going_on: bool) -> None:
        """Train from the start, or from the newest complete checkpoint, and write every artifact."""
        started_from = self._go_back_to_checkpoint() if going_on else None
        step = checkpoint.step_of(started_from) if started_from else None
        checkpoint.write_json(
            self.files.environment, {**environment(), "data_fingerprint": fingerprint(self.splits)}
        )
        before = self._before(step)
        set_seed(self.arguments.seed)
        started = time.monotonic()
        self.trainer.train(str(started_from) if started_from else None)
        self.signals.poll()
        seconds = time.monotonic() - started
        self.trainer.save_model(str(self.files.model))
        summary = self._summary("finished", before, self._after(), seconds=seconds, resumed_from=step)
        write_card(self.files.model, self.recipe.without_secrets(), summary)
        self.files.write_summary({**summary, "artifacts": self.files.artifacts()})

    def fail(self, error: BaseException) -> None:
        """Save what is trained when the run was stopped, and write how it ended."""
        self.progress.stop()
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        if isinstance(error, Interrupted):
            error.folder = str(self.files.path)
            if self.trainer.is_in_train:
                self.trainer._save_checkpoint(self.trainer.model, None)
        summary = self._summary("interrupted" if stopped else "failed", self._known_before() or {}, {})
        self.files.write_summary({**summary, "error": f"{type(error).__name__}: {error}"})

    def _go_back_to_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, with the run's lines cut back to its step."""
        for bad in self.files.bad_rows():
            self.quarantine.found[bad.split, bad.row_id] = bad
        newest = checkpoint.newest(self.files.checkpoints)
        for folder in checkpoint.ordered(self.files.checkpoints):
            if newest is None or checkpoint.step_of(folder) > checkpoint.step_of(newest):
                say(f"{folder.name} is passed over: {checkpoint.damage(folder)}")
        self.files.cut_metrics(checkpoint.step_of(newest) if newest else -1)
        say(f"going on from {newest.name}" if newest else "no checkpoint yet: starting from the beginning")
        return newest

    def _known_before(self) -> dict[str, float] | None:
        return self.files.measured(0, self.measured_split) if self.measured_split else None

    def _before(self, resumed_step: int | None) -> dict[str, float]:
        if not self.recipe.eval.before or self.measured_split is None:
            return {}
        if resumed_step is not None and (known := self._known_before()) is not None:
            return known
        metrics = self.evaluate(self.measured_split)
        say(f"before  {self.measured_split}: {shown(metrics)}")
        return metrics

    def _after(self) -> dict[str, float]:
        """The final model's metrics; what training has measured of these rows and weights is not measured again."""
        if self.measured_split is None:
            return {}
        best = self.trainer.state.best_global_step if self.arguments.load_best_model_at_end else None
        known = self.files.measured(best or self.trainer.state.global_step, self.measured_split)
        metrics = known if known is not None else self.evaluate(self.measured_split)
        say(f"after   {self.measured_split}: {shown(metrics)}")
        return metrics

    def evaluate(self, split: str) -> dict[str, float]:
        """Metrics of one split, by the names the recipe uses."""
        prefix = next(prefix for prefix, name in _PREFIXES.items() if name == split)
        values = self.trainer.evaluate(self.rows[split], metric_key_prefix=prefix.rstrip("_"))
        return without_timing({name.removeprefix(prefix): value for name, value in values.items()})

    def used(self, split: str) -> int:
        """Rows of a split that could be used."""
        return len(self.rows[split]) - self.quarantine.count(split) if split in self.rows else 0

    def _summary(self, status: str, before: Mapping[str, float], after: Mapping[str, float],
                 seconds: float = 0.0, resumed_from: int | None = None) -> dict[str, Any]:  # fmt: skip
        state = self.trainer.state
        return {
            "schema": SCHEMA,
            "status": status,
            "task": self.recipe.name,
            "before": dict(before),
            "after": dict(after),
            "train": {
                "steps": state.global_step,
                "epochs": round(state.epoch or 0.0, 4),
                "seconds": round(seconds, 3),
                "loss": self.trainer.mean_train_loss(),
                "resumed_from": resumed_from,
            },
            "rows": {**{name: self.used(name) for name in ("train", "validation", "test")},
                     "quarantined": len(self.quarantine.found)},
            "artifacts": self.files.artifacts(),
        }  # fmt: skip


class _MetricsFile(TrainerCallback):
    """Writes what is logged to `metrics.jsonl`, a line a split."""

    def __init__(self, files: RunFolder) -> None:
        self.files = files

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return
        prefix = next(
            (prefix for prefix in ("eval_", "test_") if any(key.startswith(prefix) for key in logs)), ""
        )
        values = {name.removeprefix(prefix): value for name, value in logs.items()}
        self.files.add_metrics(state.global_step, _PREFIXES.get(prefix, "train"), without_timing(values))


def without_timing(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if name not in _TIMING}


def open_data(plugins: Plugins, data: Any, *, hold_out: bool = True) -> dict[str, Rows]:
    """The rows of a run by split, with the columns the plugins read.

    Args:
        data: objects given in code instead of the recipe's source.
        hold_out: set validation rows aside where the data has none; without it, a single split is one to measure.
    Raises:
        DataError: the source cannot be read, is empty, or lacks a column.
    """
    recipe = plugins.recipe
    seed = int(recipe.train.get("data_seed") or recipe.train.get("seed", 42))
    own_source = plugins.dataset()
    if data is not None:
        splits = data_from_objects(data)
    elif own_source is not None:
        splits = data_from_objects(own_source())
    else:
        splits = open_splits(recipe.data)
    splits = name_columns(splits, plugins.columns(), recipe.data.columns)
    if hold_out:
        splits = with_validation(splits, recipe.data.validation_fraction, seed)
    elif list(splits) == ["train"]:
        splits = {"test": splits["train"]}
    splits = limited(splits, recipe.data.limit)
    measured = {name: rows for name, rows in splits.items() if name != "train"}
    return {**splits, **limited(measured, recipe.eval.max_samples)}


def open_model(plugins: Plugins, objects: tuple[Any, Any], seed: int) -> tuple[Any, Any]:
    """The model to train, adapted as the recipe says, and its processor."""
    model, processor = objects
    set_seed(seed)
    if model is None:
        loaded, own_processor = plugins.model()()
        model, processor = loaded, processor if processor is not None else own_processor
    else:
        keep_unpacked(model)
    adapter = plugins.recipe.adapter
    if adapter is not None and not getattr(model, "peft_config", None):
        own = plugins.adapt()
        model = own(model) if own is not None else adapt(model, adapter)
    return model, processor


def open_trained(plugins: Plugins, folder: Path) -> tuple[Any, Any]:
    """The model that a run saved, for use, and its processor."""
    if (folder / "adapter_config.json").is_file():
        from peft import PeftModel

        model, processor = plugins.model()()
        return PeftModel.from_pretrained(model, folder).eval(), processor
    saved = {"name": str(folder), "revision": None, "quantization": None, "from_config": None}
    model, processor = plugins.with_recipe(plugins.recipe.override(model=saved)).model()()
    return model.eval(), processor
