"""The trainer's saving and resuming: what upstream forgets between two processes is kept and taken up again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from transformers.trainer_callback import TrainerCallback

from toolkit import checkpoint, ranks
from toolkit.adalora import Ranks, adalora_of
from toolkit.bad_numbers import BadNumbers
from toolkit.errors import CheckpointError, ToolkitError, in_one_line
from toolkit.hub import push_checkpoint
from toolkit.model_files import ADAPTER_WEIGHTS
from toolkit.models import problem_of_pickle, quiet
from toolkit.notices import say
from toolkit.optimizing import as_set_now, optimizer_settings
from toolkit.signals import Signals

_ABSENT = object()


class ResumableTrainer(transformers.Trainer):
    """`transformers.Trainer` with checkpoints that are complete or ignored; to go on from one is as never to stop."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._resumed_from: Path | None = None
        self._evaluation_due = False
        self._stopped = False
        """For good, by a callback, as early stopping does; a signal only interrupts."""
        self._saved: tuple[int, int] | None = None
        self._saving_checkpoint = False
        self._loss_before_resume = 0.0
        self._numbers = BadNumbers(self)
        self._reported: dict[str, list[float]] = {}
        self._tr_loss: Any = 0.0
        self._logged_before = 0
        self._total_loss_scalar = 0.0
        self._loaded_use_cache: Any = _ABSENT
        self._remember_use_cache(kwargs.get("model", args[0] if args else None))
        super().__init__(*args, **kwargs)
        self.add_callback(_Resumption(self))
        adalora = adalora_of(self.model)
        self._ranks = Ranks(adalora) if adalora is not None else None
        if self._ranks is not None:
            self.add_callback(self._ranks)

    # ---- resuming ------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As upstream; True resumes from the newest complete checkpoint, or starts where there is none at all.

        What is not said here is taken from the arguments' `resume_from_checkpoint`.
        """
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        if str(resume_from_checkpoint).lower() == "true":
            resume_from_checkpoint = self._newest_checkpoint()
        self._resumed_from = Path(str(resume_from_checkpoint)) if resume_from_checkpoint else None
        self._saved = None
        self._stopped = False
        self._numbers = BadNumbers(self)
        if self._resumed_from is not None:
            with _taken_up("training state", str(self._resumed_from)):
                transformers.TrainerState.load_from_json(str(self._resumed_from / checkpoint.STATE))
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _newest_checkpoint(self) -> str | None:
        parent = Path(self.args.output_dir)
        checkpoint.bring_back(parent)
        newest, unusable = checkpoint.newest_and_damaged(parent)
        if newest is None and unusable:
            raise CheckpointError(
                f"no checkpoint in {parent} is complete",
                hint="name one: train(resume_from_checkpoint='.../checkpoint-N')",
            )
        for folder, problem in unusable.items():
            say(f"{folder.name} is passed over: {problem}")
        return str(newest) if newest else None

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        places = super()._init_training_state(*args, **kwargs)
        if self.state.best_global_step:  # what is stored is a path of the process that was
            best = Path(self.args.output_dir) / f"{checkpoint.PREFIX}{self.state.best_global_step}"
            if self.args.load_best_model_at_end and self._is_ours():
                ranks.first(functools.partial(_refuse_damaged_best, best))
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        self.state.compute_steps(
            self.args, self.state.max_steps
        )  # what is stored may have been changed since
        return places

    def _is_ours(self) -> bool:
        """Whether the checkpoint that is resumed from has a manifest; those of scripts for upstream have none."""
        return self._resumed_from is not None and (self._resumed_from / checkpoint.MANIFEST).is_file()

    def _run_epoch(self, **loop: Any) -> None:
        if self.state.global_step >= self.state.max_steps or self._stopped:  # resumed from the last step
            self.control.should_training_stop = True
            return
        if getattr(loop["train_dataloader"], "_iterator", None) is not None:
            # Workers that persist are seeded once. Those of a resumed run begin here, which takes a number.
            torch.empty((), dtype=torch.int64).random_()
        super()._run_epoch(**loop)

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False, **kwargs: Any
    ) -> Any:
        if skip_scheduler and self._resumed_from is not None:  # the one on start has been
            return {}
        self._evaluation_due = True
        self._stopped = self._is_stopped()
        asked, self.control.should_training_stop = self.control.should_training_stop, False
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler, **kwargs)
        self._stopped = self._stopped or self.control.should_training_stop
        self.control.should_training_stop = asked or self._stopped
        self._evaluation_due = False
        return metrics

    def _is_stopped(self) -> bool:
        """Whether a callback has ended training before its last step; a script's may have meant a pause."""
        signals = next((one for one in self.callback_handler.callbacks if isinstance(one, Signals)), None)
        asked = self.control.should_training_stop and self.state.global_step < self.state.max_steps
        return self._stopped or (asked and signals is not None and not signals.stopping)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As upstream; what is best so far is saved, so that the best weights are there in the end, and no others."""
        is_best: bool = super()._determine_best_metric(metrics, trial)
        if is_best and self.args.load_best_model_at_end:
            self.control.should_save = True
        return is_best

    def take_up(self) -> None:
        """Restore what the checkpoint says of the loss, and make up for an evaluation that was interrupted."""
        path = self._resumed_from / checkpoint.RUNNING_LOSS if self._resumed_from else None
        if path is None or not path.is_file():
            return
        if self._ranks is not None:
            self._ranks.load(path.parent)
        kept = checkpoint.read_json(path)
        everybodys = kept["since_log"]
        alike = len(everybodys) == self.args.world_size
        self._tr_loss += everybodys[self.args.process_index] if alike else sum(everybodys) / len(everybodys)
        self._globalstep_last_logged = int(kept["logged_step"])
        self._loss_before_resume = kept["before_log"]
        self._reported = kept["reported"]
        self._numbers.skipped = kept.get("skipped", [])
        self._stopped = kept.get("stopped", False)
        if kept["evaluation_due"]:
            metrics = self._evaluate(None, None)
            if self._determine_best_metric(metrics=metrics, trial=None) and self.args.load_best_model_at_end:
                self.state.best_model_checkpoint = str(self._resumed_from)

    @property
    def skipped_steps(self) -> int:
        """How many steps were left out because of their numbers."""
        return len(self._numbers.skipped)

    def mean_train_loss(self) -> float | None:
        """Mean of the training loss over the steps that were taken, before a resume too; None where none was."""
        taken = int(self.state.global_step) - self.skipped_steps
        total = self._loss_before_resume + self._total_loss_scalar + self._loss_since_log()
        return total / taken if taken else None

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._logged_before = self._globalstep_last_logged
        asked = self.control.should_save  # by a signal; upstream forgets it where save_strategy is best
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if asked and not self.control.should_save:
            self._save_checkpoint(self.model, None)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As upstream; steps that were skipped are not counted in the mean loss, which without others is NaN."""
        if "loss" in logs:
            logs["loss"] = self._numbers.mean_of_taken(
                logs["loss"], self._logged_before, self.state.global_step
            )
        super().log(logs, start_time)

    def _loss_since_log(self) -> float:
        """Not yet in upstream's sum, to which the end of training adds it."""
        return float(self._tr_loss) if self.is_in_train else 0.0

    def _ranks_in_place(self) -> contextlib.AbstractContextManager[None]:
        return self._ranks.in_place() if self._ranks is not None else contextlib.nullcontext()

    # ---- saving --------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As upstream, then what it forgets, the manifest that makes the checkpoint complete, and rotation."""
        now = (self.state.global_step, len(self.state.log_history))
        if self._saved == now:
            return
        parent = Path(self._get_output_dir(trial))
        folder = parent / f"{checkpoint.PREFIX}{self.state.global_step}"
        try:
            self._write_checkpoint(folder, model, trial)
        except BaseException:
            if self.args.should_save:
                checkpoint.give_up(folder)
            raise
        if self.args.should_save:
            if self.args.save_total_limit:
                self._finish_current_push()  # of what may be removed now
            checkpoint.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(folder))
        self._saved = now

    def _write_checkpoint(self, folder: Path, model: Any, trial: Any) -> None:
        if self.args.should_save:
            checkpoint.begin(folder)
        self.accelerator.wait_for_everyone()
        self._saving_checkpoint = True
        try:
            with self._without("save_total_limit", None), self._without("push_to_hub", False):
                super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False
        since_log = gather_object([self._loss_since_log()])  # when all have written what is theirs
        if self.args.should_save:
            if self._ranks is not None:
                self._ranks.save(folder)
            running_loss = {"since_log": since_log, **self._running_loss()}
            checkpoint.write_json(folder / checkpoint.RUNNING_LOSS, running_loss)
            checkpoint.complete(folder)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As upstream, but straight from the checkpoint, and without a pickle of the arguments."""
        push_checkpoint(self, Path(checkpoint_folder))

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        self._tr_loss = self.accelerator.gather(
            self._tr_loss
        ).mean()  # upstream adds up what is the first process's
        with self._without("save_total_limit", None):
            return super()._finalize_training(*args, **kwargs)

    @contextlib.contextmanager
    def _without(self, argument: str, value: Any) -> Iterator[None]:
        """Keep upstream from what an argument makes it do: its rotation knows nothing of damaged checkpoints."""
        asked = getattr(self.args, argument)
        setattr(self.args, argument, value)
        try:
            yield
        finally:
            setattr(self.args, argument, asked)

    def _running_loss(self) -> dict[str, Any]:
        """What upstream keeps in memory only, beside each process's loss since the last log line."""
        return {
            "logged_step": self._globalstep_last_logged,
            "before_log": self._loss_before_resume + self._total_loss_scalar,
            "reported": self._reported,
            "skipped": self._numbers.skipped,
            "stopped": self._is_stopped(),
            "evaluation_due": self._evaluation_due,
            "settings": optimizer_settings(self.args, self.state.max_steps),
        }

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights, configurations and processor; unlike upstream no pickle of the arguments, which hold tokens."""
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if hasattr(model, "save_pretrained"):
            # Upstream resumes by the names that weights have in memory, and saves those of older releases, which for
            # some architectures differ: such weights would silently be random again.
            names = {"save_original_format": False} if self._saving_checkpoint else {}
            with quiet(), self._use_cache_as_loaded(), self._ranks_in_place():
                model.save_pretrained(folder, state_dict=state_dict, **names)
        else:
            weights = state_dict or model.state_dict()
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        generation = getattr(model, "generation_config", None)
        if generation is not None:  # PEFT saves an adapter without
            generation.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint of which a part is not the model's, where upstream goes on without it."""
        if load_result.unexpected_keys:
            names = ", ".join(sorted(load_result.unexpected_keys)[:3])
            raise CheckpointError(
                f"the checkpoint holds weights that a {type(self.model).__name__} does not have: {names}",
                hint="it is another model's, or another release of transformers wrote it: start another run",
            )
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint and not any(Path(checkpoint).glob("*optimizer*")) and not self.is_deepspeed_enabled:
            raise CheckpointError(
                f"{checkpoint} holds no state of the optimizer, as train.save_only_model leaves it out: "
                "to go on from it would not be exact",
                hint=f"begin another run from its weights: --model {checkpoint}",
            )
        with _taken_up("optimizer and scheduler", checkpoint), as_set_now(self, _made_with(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        with _taken_up("scaler", checkpoint):
            super()._load_scaler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with _taken_up("random state", checkpoint):
            super()._load_rng_state(checkpoint)

    # ---- models with `add_adapter`, which upstream saves but cannot load -----------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        other = "it is of another model or adapter than the recipe's: go on by the one it is of, or start another run"
        with _taken_up("weights", resume_from_checkpoint, other):
            if not self._load_added_adapter(Path(resume_from_checkpoint)):
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        best = Path(self.state.best_model_checkpoint)
        ranks.first(functools.partial(_refuse_damaged_best, best))
        with _taken_up("weights", str(best), _without_best(best)):
            with self._ranks_in_place():
                if not self._load_added_adapter(best):
                    super()._load_best_model()
            if self._ranks is not None:
                self._ranks.load(best)

    def _load_added_adapter(self, folder: Path) -> bool:
        """Load the active adapter of a model with `add_adapter`; False for any other model."""
        if (
            not getattr(self.model, "_hf_peft_config_loaded", False)
            or not (folder / ADAPTER_WEIGHTS).is_file()
        ):
            return False
        from peft import set_peft_model_state_dict

        weights = {
            name.removeprefix("base_model.model."): tensor
            for name, tensor in load_file(folder / ADAPTER_WEIGHTS).items()
        }
        set_peft_model_state_dict(self.model, weights, adapter_name=self.model.active_adapters()[0])
        return True

    # ---- the generation cache, which upstream switches off for training ------------------------------------------

    def call_model_init(self, trial: Any = None) -> Any:
        model = super().call_model_init(trial)
        self._remember_use_cache(model)
        return model

    def _remember_use_cache(self, model: Any) -> None:
        config = getattr(model, "config", None)
        if config is not None:
            self._loaded_use_cache = vars(config).get("use_cache", _ABSENT)

    @contextlib.contextmanager
    def _use_cache_as_loaded(self) -> Iterator[None]:
        """What is saved shall generate as fast as what was loaded."""
        training = vars(self.model.config).get("use_cache", _ABSENT)
        _set_or_remove(self.model.config, self._loaded_use_cache)
        try:
            yield
        finally:
            _set_or_remove(self.model.config, training)

    def release_model(self) -> Any:
        """The trained model, its configuration as it was loaded."""
        if getattr(self.model, "config", None) is not None:
            _set_or_remove(self.model.config, self._loaded_use_cache)
        return self.model


class _Resumption(TrainerCallback):
    """Takes up a checkpoint when training begins, and saves after an epoch is logged and measured, not before."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer, self.deferred = trainer, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.take_up()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if not (float(state.epoch).is_integer() or state.global_step >= state.max_steps):
            return control
        if args.logging_strategy == "epoch":  # at once: a checkpoint of this step would lack the line
            control.should_log = True
        if args.eval_strategy == "epoch" and control.should_save:
            control.should_save, self.deferred = False, True
        return control

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        control.should_save, self.deferred = control.should_save or self.deferred, False
        return control


def _made_with(folder: str | None) -> dict[str, Any]:
    """The settings of the optimizer that a checkpoint was made with; one of a script for upstream does not say."""
    path = Path(folder) / checkpoint.RUNNING_LOSS if folder else None
    return checkpoint.read_json(path).get("settings", {}) if path is not None and path.is_file() else {}


def _refuse_damaged_best(best: Path) -> None:
    """Raise `CheckpointError` where the best weights are gone, or are not as they were written."""
    problem = None
    if not best.is_dir():
        problem = "it is not there"
    elif (best / checkpoint.MANIFEST).exists() or checkpoint.was_cut_off(best):
        problem = checkpoint.damage(best)
    if problem is not None:
        raise CheckpointError(f"the best weights, in {best}, cannot be used: {problem}", _without_best(best))


def _without_best(best: Path) -> str:
    return (
        f"bring {best} back from a copy, or do without the best weights: "
        "--allow-changes --set train.load_best_model_at_end=false"
    )


@contextlib.contextmanager
def _taken_up(what: str, folder: str | None, hint: str | None = None) -> Iterator[None]:
    """Whatever a checkpoint's state does to the one who reads it is a fault of the checkpoint."""
    try:
        yield
    except (ToolkitError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        problem = problem_of_pickle(error)
        reason = f"its file {problem}" if problem else in_one_line(error)
        raise CheckpointError(
            f"the {what} in {folder} cannot be taken up: {reason}",
            hint or f"bring the checkpoint back from a copy, or remove {folder} to go on from the one before",
        ) from error


def _set_or_remove(config: Any, use_cache: Any) -> None:
    if use_cache is not _ABSENT:
        config.use_cache = use_cache
    elif "use_cache" in vars(config):
        del config.use_cache
