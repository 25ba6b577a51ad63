"""One run in progress: rows, model and trainer put together, then measured, trained, measured again, saved."""

from __future__ import annotations

import contextlib
import functools
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PrinterCallback, TrainerCallback, set_seed

from toolkit import checkpoint, hub, ranks
from toolkit.arguments import is_on_cpu, training_arguments
from toolkit.base_model import base_model, refuse_changed
from toolkit.cache import cache_folder
from toolkit.card import write_card
from toolkit.data.columns import names_given
from toolkit.data.fingerprint import fingerprint
from toolkit.data.rows import BadRow, PreparedRows, Quarantine
from toolkit.data.splits import Rows
from toolkit.environment import environment
from toolkit.errors import CheckpointError, Interrupted, ModelError, RecipeError, ToolkitError, did_you_mean
from toolkit.folder import SCHEMA, RunFolder
from toolkit.metrics import Scores
from toolkit.notices import say, without_credentials
from toolkit.plugins import Plugins
from toolkit.progress import Progress, show_samples, shown
from toolkit.recording import PREFIXES, Changes, EarlyStopping, MetricsFile, SamplesFile, without_timing
from toolkit.room import told_when_full
from toolkit.signals import Signals
from toolkit.stages import reused, varying
from toolkit.trainer import Trainer
from toolkit.types import Stage


class Execution:
    """Everything a run needs, opened; nothing of it is on disk yet."""

    def __init__(self, plugins: Plugins, files: RunFolder, splits: Mapping[str, Rows], model: Any, processor: Any,
                 signals: Signals, *, training: bool = True) -> None:  # fmt: skip
        self.plugins, self.files, self.signals = plugins, files, signals
        self.recipe = plugins.recipe
        self.model, self.processor = model, processor
        self.progress = Progress()
        self.splits = splits
        self._started = time.monotonic()
        self._resumed_step: int | None = None
        self._changed: list[str] = []
        self._begins_anew = False
        """Whether rows or base model are not those that were measured before training: the first process knows."""
        self._repository: str | None = None
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
            record=self._write_bad_row if training else _tell,
        )
        self.trainer = self._trainer(training)

    def _arguments(self, training: bool) -> Any:
        train = self.recipe.train
        faults = [*self._order_faults(), *(self._training_faults() if training else ())]
        if faults:
            raise RecipeError.gather(faults)
        if not training:
            quiet = {"report_to": "none", "eval_strategy": "no", "load_best_model_at_end": False}
            return training_arguments({**train, **quiet}, self.files.path)
        derived: dict[str, Any] = {"logging_dir": str(self.files.logs)}
        if self.recipe.eval.early_stopping_patience is not None:
            derived |= {"metric_for_best_model": "loss", "load_best_model_at_end": True}
        best = train.get("metric_for_best_model", derived.get("metric_for_best_model"))
        if best is not None:
            derived["greater_is_better"] = self._directions[str(best).removeprefix("eval_")]
        return training_arguments(train, self.files.checkpoints, **derived)

    @functools.cached_property
    def _directions(self) -> dict[str, bool]:
        """Of each metric whether larger values are better; raises `PluginError` where two have one name."""
        return Scores(self.plugins.metrics(self.processor)).higher_is_better()

    def _order_faults(self) -> Iterator[RecipeError]:
        grouped = self.recipe.train.get("train_sampling_strategy") == "group_by_length"
        if grouped and self.plugins.row_length() is None:
            yield RecipeError(
                "train.train_sampling_strategy: no plugin of the recipe tells how long rows are",
                hint="take random, or add a plugin that answers toolkit_row_length",
            )

    def _training_faults(self) -> Iterator[RecipeError]:
        """Settings that would fail, or do nothing, on these rows."""
        train, splits = self.recipe.train, self.splits
        evaluates = train.get("eval_strategy", "no") != "no"
        if evaluates and train.get("do_eval") is False:
            yield RecipeError(
                f"train.do_eval: false, but train.eval_strategy is '{train['eval_strategy']}'",
                hint="--set train.eval_strategy=no, or leave do_eval out",
            )
        if train.get("do_predict") and not {"test", "validation"} & set(splits):
            yield RecipeError(
                "train.do_predict: there are no test and no validation rows to predict",
                hint="leave it out, or --set data.validation_fraction=0.1",
            )
        if evaluates and "validation" not in splits:
            yield RecipeError(
                f"train.eval_strategy: '{train['eval_strategy']}', but there are no validation rows",
                hint="--set data.validation_fraction=0.1, or --set train.eval_strategy=no",
            )
        if self.recipe.eval.early_stopping_patience is not None and not evaluates:
            yield RecipeError(
                "eval.early_stopping_patience: training is never evaluated",
                hint="--set train.eval_strategy=epoch, or --set eval.early_stopping_patience=null",
            )
        batch = train.get("per_device_train_batch_size", 8)
        if train.get("dataloader_drop_last") and len(splits["train"]) < batch:
            yield RecipeError(
                f"train.dataloader_drop_last: {len(splits['train'])} rows make no whole batch of {batch}",
                hint="leave it out, or make batches smaller",
            )
        if train.get("fp16") and is_on_cpu(train):  # accelerate would silently go without
            yield RecipeError(
                "train.fp16: is for GPUs, the run is on the CPU",
                hint="leave it out, or --set train.bf16=true --set train.use_cpu=true",
            )
        best = train.get("metric_for_best_model")
        if best is not None and (name := str(best).removeprefix("eval_")) not in (known := self._directions):
            yield RecipeError(
                f"train.metric_for_best_model: no metric is named '{name}'",
                hint=did_you_mean(name, known) or f"the metrics are: {', '.join(known)}",
            )

    def _trainer(self, training: bool) -> Trainer:
        callbacks: list[TrainerCallback] = [self.signals, self.progress]
        if training:
            self._refuse_quantized_weights()
            callbacks.append(MetricsFile(self.files))
            if (patience := self.recipe.eval.early_stopping_patience) is not None:
                callbacks.append(EarlyStopping(patience))
        try:
            trainer = Trainer(
                model=self.model,
                args=self.arguments,
                train_dataset=self.rows.get("train"),
                eval_dataset=self.rows.get("validation"),
                processing_class=self.processor,
                callbacks=callbacks,
                plugins=self.plugins.with_recipe(self.recipe.override(train={"do_predict": None})),
                quarantine=self.quarantine,
                on_work=self.progress.count,
                interrupted=self.signals.poll,
            )
        except ValueError as error:
            raise ModelError(
                f"the model cannot be trained as the recipe says: {error}", hint="see the recipe's `train`"
            ) from error
        if training:
            trainer.add_callback(SamplesFile(self.files, trainer))
            trainer.add_callback(Changes(self._write_changes))
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _refuse_quantized_weights(self) -> None:
        if getattr(self.model, "is_quantized", False) and not getattr(self.model, "peft_config", None):
            raise ModelError(
                "model.quantization: quantized weights cannot be trained, only an adapter on them",
                hint="add one, such as --set adapter.r=16, or leave model.quantization out",
            )

    # ---- the run -------------------------------------------------------------------------------------------

    @property
    def measured_split(self) -> str | None:
        """Where before and after are measured: `test` if there is one, else `validation`."""
        return next((split for split in ("test", "validation") if split in self.rows), None)

    def carry_out(self, going_on: bool) -> None:
        """Train from the start, or from the newest complete checkpoint, and write every artifact.

        `do_train` and `do_eval` are true unless the recipe says otherwise.
        """
        with told_when_full(self.files.path, self.files.checkpoints), self.reusing():
            self._carry_out(going_on)

    @contextlib.contextmanager
    def reusing(self) -> Iterator[None]:
        """Meanwhile what the stages in which nothing trains have computed is reused, as the recipe's `cache` says."""
        cache = self.recipe.cache
        if not cache.enabled or self.arguments.torch_compile:
            yield
            return
        stages = self.plugins.frozen_stages(self.model)
        rows = sum(map(len, self.rows.values()))
        with reused(
            stages,
            cache_folder(cache.dir),
            cache.max_gb,
            rows,
            self._varying(stages),
            stopping=lambda: self.signals.received is not None,
            model=self.recipe.model.name,
        ):
            yield

    def _varying(self, stages: Sequence[Stage]) -> list[str]:
        """The stages whose inputs augmentation changes, by the look of a few rows in a few epochs."""
        train = self.rows.get("train")
        if train is None or not train.augment or not stages:
            return []
        collate = self.trainer.data_collator
        alike = [
            [collate([train[epoch, place]]) for epoch in range(4)] for place in range(min(2, len(train)))
        ]
        return varying(stages, self.trainer.score, [one for one in alike if "num_targets" in one[0]])

    def _carry_out(self, going_on: bool) -> None:
        self.signals.poll()
        started_from = self._go_back_to_checkpoint() if going_on else None
        self._resumed_step = checkpoint.step_of(started_from) if started_from else None
        ranks.first(self._write_other_start)
        before = self._before()
        set_seed(self.arguments.seed)
        self._started = time.monotonic()
        if self.recipe.train.get("do_train", True):
            self.trainer.train(str(started_from) if started_from else None)
        else:
            ranks.first(self._write_changes)
        self.signals.poll()
        seconds = time.monotonic() - self._started
        unfinished = self.files.unfinished_model
        ranks.first(functools.partial(shutil.rmtree, unfinished, ignore_errors=True))
        self.trainer.save_model(str(unfinished))
        ranks.first(self.files.finish_model)
        summary = self._summary("finished", before, self._after(), seconds)
        ranks.first(functools.partial(self._write_up, summary))
        self.trainer.release_model()

    def _write_up(self, summary: dict[str, Any]) -> None:
        write_card(self.files.model, self.recipe.without_secrets(), summary, self.files.read_environment())
        self.files.write_summary({**summary, "artifacts": self.files.artifacts()})

    def _write_bad_row(self, bad: BadRow) -> None:
        if ranks.is_first():
            self.files.add_bad_row(bad)

    def find_repository(self) -> None:
        """Where `train.push_to_hub` is set, make sure that the hub will take the model."""
        if self.recipe.train.get("push_to_hub"):
            self._repository = hub.create(self.files.path.absolute().name, self.recipe.train)

    def push(self) -> None:
        """Upload the finished model to the repository, if there is one."""
        if self._repository is not None:
            say(f"pushed to {hub.push(self.files.model, self._repository, self.recipe.train)}")

    def begin(self) -> None:
        """Write what is known before the first step: the recipe and what it runs on."""
        self.files.clear()
        self.files.write_recipe(self.recipe)
        checkpoint.write_json(self.files.environment, self._facts())

    def _facts(self) -> dict[str, Any]:
        return {
            **environment(),
            "plugins": self.plugins.versions(),
            "data_fingerprint": fingerprint(self.splits),
            "data_rows": {name: len(rows) for name, rows in self.splits.items()},
            "base_model": base_model(self.recipe.model, self.files.read_environment().get("base_model", {})),
            "columns": names_given(self.splits["train"]),
            "processes": ranks.count(),
        }

    def check_same_start(self, settings: Sequence[str] = (), *, allow_changes: bool = False) -> None:
        """Refuse to go on with another base model, other rows or another number of processes than the run began with.

        Args:
            settings: of the recipe that were changed, as a person reads it, and may be.
            allow_changes: note what has changed instead.
        Raises:
            CheckpointError: the model, the data or the number of processes has changed.
        """
        begun = self.files.read_environment()
        self._changed = list(settings)
        faults: list[ToolkitError] = []
        try:
            refuse_changed(self.recipe.model, begun.get("base_model", {}))
        except ToolkitError as error:
            faults.append(error)
        if begun and (difference := self._data_difference(begun)):
            faults.append(
                CheckpointError(
                    f"the data is not what the run in {self.files.path} began with: {difference}",
                    hint="bring back the rows as they were, start another run, or insist: --allow-changes",
                )
            )
        self._begins_anew = bool(faults)
        if (there := begun.get("processes", ranks.count())) != ranks.count():
            launcher = f"torchrun --nproc-per-node {there} -m " if there != 1 else ""
            faults.append(
                CheckpointError(
                    f"the run in {self.files.path} has another number of processes: {there} there, "
                    f"{ranks.count()} here",
                    hint=f"{launcher}toolkit resume {self.files.path}, start another run, or insist: --allow-changes",
                )
            )
        if faults and not allow_changes:
            raise type(faults[0]).gather(faults)
        self._changed += [fault.message for fault in faults]
        if not begun:  # cut off between the recipe and this
            checkpoint.write_json(self.files.environment, self._facts())

    def _data_difference(self, begun: Mapping[str, Any]) -> str | None:
        was, now = begun.get("data_fingerprint"), self._facts()
        if was == now["data_fingerprint"]:
            return None
        rows = [
            f"{count} {name} rows there, {now['data_rows'].get(name, 0)} here"
            for name, count in begun.get("data_rows", {}).items()
            if count != now["data_rows"].get(name, 0)
        ]
        return ", ".join([*rows, f"fingerprint {was} there, {now['data_fingerprint']} here"])

    def _write_other_start(self) -> None:
        """What is measured before training is then of what stands in the folder, whenever the run is cut off."""
        if self._begins_anew or self._resumed_step is None:
            self._write_changes()

    def _write_changes(self) -> None:
        """From here on the run is what it is now; that it was something else before stands in `environment.json`."""
        if not self._changed:
            return
        for line in self._changed:
            say(f"changed: {line}")
        self.files.summary.unlink(missing_ok=True)
        begun = self.files.read_environment()
        changes = [*begun.get("changes", []), {"step": self._resumed_step or 0, "changed": self._changed}]
        self.files.write_recipe(self.recipe)
        checkpoint.write_json(self.files.environment, {**self._facts(), "changes": changes})
        self._changed = []

    def fail(self, error: BaseException) -> None:
        """Save what is trained when the run was stopped, and write how it ended."""
        self.progress.stop()
        try:
            if isinstance(error, Interrupted):
                error.folder = str(self.files.path)
                self._save_what_is_trained()
        except KeyboardInterrupt as second:
            error = second
            raise
        finally:
            if isinstance(error, KeyboardInterrupt):
                say("stopped at once")
            self._write_end(error)

    def _write_end(self, error: BaseException) -> None:
        """The summary of a run that was stopped or has failed; the first process has it also of what another met."""
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        if not ranks.is_first():
            if not stopped:
                ranks.tell_end(error)
            return
        seconds = time.monotonic() - self._started
        summary = self._summary(
            "interrupted" if stopped else "failed", self._known_before() or {}, {}, seconds
        )
        ended = f"{type(error).__name__}: {error}"
        if not stopped and not isinstance(error, ToolkitError):  # maybe of the other's end
            ended = ranks.told_end() or ranks.loss_of_another(error) or ended
        try:
            self.files.write_summary({**summary, "error": without_credentials(ended)})
        except OSError as problem:  # what ended the run is said, whether or not there is room for it
            say(f"{self.files.summary} cannot be written: {problem.strerror}")

    def _save_what_is_trained(self) -> None:
        """A checkpoint of the last step, unless there is one, or the best weights have taken its place."""
        trainer = self.trainer
        replaced = self.arguments.load_best_model_at_end and not trainer.is_in_train
        newest = checkpoint.newest(self.files.checkpoints)
        if replaced or not trainer.state.global_step:
            return
        if newest is None or checkpoint.step_of(newest) != trainer.state.global_step:
            try:
                trainer._save_checkpoint(trainer.model, None)
            except Exception as problem:  # it is the signal that ends the run; what else is wrong is told
                say(f"the last step could not be saved: {type(problem).__name__}: {problem}")

    def _go_back_to_checkpoint(self) -> Path | None:
        """The checkpoint to go on from, with the run's lines cut back to its step."""
        for bad in ranks.first(self._bad_rows_so_far):
            self.quarantine.note(bad)
        ranks.alike(self.quarantine.judge)
        return ranks.first(self._newest_checkpoint)

    def _bad_rows_so_far(self) -> list[BadRow]:
        """Those that were put aside and cannot be used now either."""
        if self._begins_anew:
            self.files.forget_start()
        found = self.files.bad_rows()
        still_bad = {
            split: self.rows[split].still_bad({one.row_id for one in found if one.split == split})
            for split in {one.split for one in found} & self.rows.keys()
        }
        bad = [one for one in found if one.row_id in still_bad.get(one.split, ())]
        if bad != found:
            self.files.write_bad_rows(bad)
        return bad

    def _newest_checkpoint(self) -> Path | None:
        checkpoint.bring_back(self.files.checkpoints)
        found, unusable = checkpoint.newest_and_damaged(self.files.checkpoints)
        told = [f"{folder.name}: {problem}" for folder, problem in unusable.items()]
        if found is None and not all(map(checkpoint.was_cut_off, unusable)):
            raise CheckpointError(
                f"no checkpoint of the run in {self.files.path} can be used\n  " + "\n  ".join(told),
                hint="bring one back from a copy; to begin again from the first step, remove "
                f"{self.files.checkpoints}, then: toolkit resume {self.files.path}",
            )
        for folder, problem in unusable.items():
            if checkpoint.was_cut_off(folder):
                checkpoint.clear(folder)
                say(f"{folder.name} is passed over and removed: {problem}")
            else:
                say(f"{folder.name} is passed over, and is now {checkpoint.set_aside(folder)}: {problem}")
        if found is None:
            self.files.cut_back(-1)
        else:
            self.files.cut_back(checkpoint.step_of(found), validated=checkpoint.is_validated(found))
        say(f"going on from {found.name}" if found else "no checkpoint yet: starting from the beginning")
        return found

    def _known_before(self) -> dict[str, float] | None:
        return self.files.measured(0, self.measured_split) if self.measured_split else None

    def _before(self) -> dict[str, float]:
        if not self.recipe.eval.before or not self._measures or self.measured_split is None:
            _ = self._directions  # what is wrong with the metrics is found before training all the same
            return {}
        if self._resumed_step is not None and (known := ranks.first(self._known_before)) is not None:
            return known
        metrics = self.evaluate(self.measured_split)
        say(f"before  {self.measured_split}: {shown(metrics)}")
        show_samples(self.files.sampled(0, self.measured_split))
        return metrics

    @property
    def _measures(self) -> bool:
        return bool(self.recipe.train.get("do_eval", True))

    def _after(self) -> dict[str, float]:
        """The final model's metrics; what training has measured of these rows and weights is not measured again."""
        predicts = self.recipe.train.get("do_predict", False)
        if self.measured_split is None or not (self._measures or predicts):
            return {}
        state = self.trainer.state
        best = self.arguments.load_best_model_at_end and state.best_model_checkpoint is not None
        step = checkpoint.step_of(Path(state.best_model_checkpoint)) if best else state.global_step
        measured = functools.partial(self.files.measured, step, self.measured_split)
        metrics = None if predicts else ranks.first(measured)
        if metrics is None:
            step = state.global_step
            metrics = self._predict(self.measured_split) if predicts else self.evaluate(self.measured_split)
        if not self._measures:
            return {}
        say(f"after   {self.measured_split}: {shown(metrics)}")
        show_samples(self.files.sampled(step, self.measured_split))
        return metrics

    def _predict(self, split: str) -> dict[str, float]:
        """Metrics of one split, and what the model makes of each of its rows in `predictions.jsonl`."""
        with self.trainer.predicting(self.plugins):
            metrics = self.evaluate(split)
        self.files.write_predictions(self.trainer.samples)
        if not self.trainer.samples:
            say("train.do_predict: the plugins give no predictions that could be written down")
        return metrics

    def evaluate(self, split: str) -> dict[str, float]:
        """Metrics of one split, by the names the recipe uses."""
        prefix = next(prefix for prefix, name in PREFIXES.items() if name == split)
        values = self.trainer.evaluate(self.rows[split], metric_key_prefix=prefix.rstrip("_"))
        return without_timing({name.removeprefix(prefix): value for name, value in values.items()})

    def used(self, split: str) -> int:
        """Rows of a split that could be used."""
        return len(self.rows[split]) - self.quarantine.count(split) if split in self.rows else 0

    def _summary(self, status: str, before: Mapping[str, float], after: Mapping[str, float],
                 seconds: float) -> dict[str, Any]:  # fmt: skip
        state = self.trainer.state
        return {
            "schema": SCHEMA,
            "status": status,
            "task": self.recipe.name,
            "before": dict(before),
            "after": dict(after),
            "train": {
                "steps": state.global_step or self._resumed_step or 0,
                "epochs": round(state.epoch or 0.0, 4),
                "seconds": round(seconds, 3),
                "loss": self.trainer.mean_train_loss(),
                "resumed_from": self._resumed_step,
                "skipped": self.trainer.skipped_steps,
            },
            "rows": {**{name: self.used(name) for name in ("train", "validation", "test")},
                     "quarantined": len(self.quarantine.found)},
            "artifacts": self.files.artifacts(),
        }  # fmt: skip


def _tell(bad: BadRow) -> None:
    say(f"{bad.split} row {bad.row_id} is left out: {bad.reason}")
