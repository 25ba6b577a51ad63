"""The loop: transformers' Trainer, with loss, collator and metrics from the plugins.

for each epoch:                                   order of rows: (seed, epoch)
    for each optimizer step:
        batches = next micro-batches              toolkit_prepare, toolkit_augment, toolkit_collator, in workers
        targets = sum of num_targets              over micro-batches and ranks, before any forward
        for each micro-batch:
            loss = toolkit_loss(model, batch)     a sum, in nats
            backward(loss.total x ranks / targets)
        optimizer step
    evaluate, save as train.eval_strategy and train.save_strategy say
        for each batch: toolkit_evaluate_batch -> toolkit_metrics
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.utils import gather_object
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from toolkit import checkpoint
from toolkit.data.rows import CollateFetched, PreparedRows, Quarantine
from toolkit.data.sampling import EpochSampler
from toolkit.metrics import Scores
from toolkit.models import quiet
from toolkit.plugins import Plugins
from toolkit.types import Batch, Loss, Scored

_OUR_KEYS = ("num_targets", "row_id", "work", "bad_rows")


class Trainer(transformers.Trainer):
    """`transformers.Trainer`, which with `plugins` trains and measures as they say.

    Without plugins it is used as transformers' own. With them, datasets are `PreparedRows`, the collator, loss and
    metrics come from the hooks, losses are divided once by all targets of a step, and evaluation streams.
    """

    def __init__(
        self,
        *args: Any,
        plugins: Plugins | None = None,
        quarantine: Quarantine | None = None,
        on_work: Callable[[Mapping[str, float]], None] = lambda work: None,
        interrupted: Callable[[], None] = lambda: None,
        **kwargs: Any,
    ) -> None:
        """Arguments beyond transformers':

        Args:
            plugins: the loaded plugins of a recipe.
            quarantine: where bad rows go; required with plugins.
            on_work: told the amounts that each batch says it processes.
            interrupted: called between batches of an evaluation; raises to stop it.
        """
        self._plugins, self._quarantine = plugins, quarantine
        self._on_work, self._interrupted = on_work, interrupted
        self._train_order: EpochSampler | None = None
        self._loss_before_resume = 0.0
        self._reported: dict[str, list[float]] = {}
        self._stream_metrics = plugins is not None and kwargs.get("compute_metrics") is None
        if plugins is not None:
            processor = kwargs.get("processing_class")
            kwargs["data_collator"] = CollateFetched(plugins.collator(processor))
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or ()), *plugins.callbacks()]
            self._loss = plugins.loss() or model_loss
            self._evaluate_batch = plugins.evaluate_batch(processor) or self._loss_alone
        if plugins is not None or _overrides(self, "compute_loss"):
            # An overridden compute_loss returns a mean over its micro-batch, which upstream would take for scaled.
            self.loss_is_scaled_for_ga = not _overrides(self, "compute_loss")
        model = kwargs.get("model", args[0] if args else None)
        self._loaded_use_cache = getattr(getattr(model, "config", None), "use_cache", None)
        super().__init__(*args, **kwargs)

    # ---- data --------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, PreparedRows):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._train_order = EpochSampler(
            len(dataset), seed, shuffle=self.args.train_sampling_strategy == "random"
        )
        return self._train_order

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            if not is_training:  # an even share of rows for each rank would repeat some
                stack.callback(setattr, self.accelerator, "even_batches", self.accelerator.even_batches)
                self.accelerator.even_batches = False
            return super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one step, with the number of targets in all of them, on all ranks."""
        if self._plugins is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [self._good_rows(batch) for batch in itertools.islice(epoch_iterator, num_batches)]
        for batch in batches:
            self._on_work(batch.get("work", {}))
        targets = torch.tensor(sum(int(batch["num_targets"]) for batch in batches), device=device)
        if self.args.world_size > 1:
            targets = self.accelerator.gather(targets).sum()
        return batches, targets

    def _good_rows(self, batch: Batch) -> Batch:
        assert self._quarantine is not None
        self._quarantine.add(batch.pop("bad_rows", ()))
        return batch

    # ---- training ------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As upstream; True resumes from the newest complete checkpoint, or starts where there is none."""
        if resume_from_checkpoint is True:
            newest = checkpoint.newest(Path(self.args.output_dir))
            resume_from_checkpoint = str(newest) if newest else None
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _run_epoch(self, **loop: Any) -> None:
        if self._train_order is not None:
            self._train_order.set_epoch(loop["epoch"])
        if loop["resume_from_checkpoint"] and loop["epoch"] == loop["epochs_trained"]:
            self._restore_running_loss(Path(loop["resume_from_checkpoint"]))
        super()._run_epoch(**loop)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self._plugins is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self._loss(model, inputs)
        for name, value in loss.report.items():
            self._reported.setdefault(name, []).append(float(value))
        # Gradients are averaged over ranks, so the share of this rank is taken times their number.
        if num_items_in_batch is None:
            mean = loss.total / max(int(loss.count), 1)
        else:
            mean = loss.total * self.args.world_size / num_items_in_batch.clamp(min=1)
        return (mean, loss.outputs) if return_outputs else mean

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As upstream; a line of training also has the means of what `Loss.report` said since the last one."""
        if "loss" in logs:
            logs |= {name: sum(values) / len(values) for name, values in self._reported.items() if values}
            self._reported.clear()
        super().log(logs, start_time)

    def mean_train_loss(self) -> float | None:
        """Mean of the training loss over all steps so far, those before a resume included; None before the first."""
        if not self.state.global_step:
            return None
        return float(self._loss_before_resume + self._total_loss_scalar) / int(self.state.global_step)

    # ---- evaluation ----------------------------------------------------------------------------------------

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *args: Any, **kwargs: Any
    ) -> Any:
        """As upstream, except that with plugins the metrics stream and `loss` is nats per target."""
        if not self._stream_metrics:
            return super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        scores = self._scores(dataloader)
        values = {f"{prefix}_{name}": value for name, value in scores.compute().items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=values, num_samples=scores.rows)

    def _scores(self, dataloader: DataLoader[Any]) -> Scores:
        assert self._plugins is not None
        scores = Scores(self._plugins.metrics(self.processing_class))
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        for batch in dataloader:
            self._interrupted()
            if "num_targets" in self._good_rows(batch):
                inputs = self._prepare_inputs(batch)
                with torch.no_grad(), self.accelerator.autocast():
                    scores.update(self._evaluate_batch(self.model, inputs))
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            first, *others = gather_object([scores])
            for other in others:
                first.merge(other)
            scores = first
        return scores

    def _loss_alone(self, model: Any, batch: Batch) -> Scored:
        return Scored(self._loss(model, batch), batch)

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights, configuration and processor; unlike upstream no pickle of the arguments, which hold tokens."""
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        if hasattr(model, "save_pretrained"):
            with quiet(), self._use_cache_as_loaded(model.config):
                model.save_pretrained(folder, state_dict=state_dict)
        else:
            save_file(
                state_dict or model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"}
            )
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    @contextlib.contextmanager
    def _use_cache_as_loaded(self, config: Any) -> Iterator[None]:
        """Upstream trains with the cache off; what is saved shall generate as fast as what was loaded."""
        training = getattr(config, "use_cache", None)
        config.use_cache = self._loaded_use_cache
        try:
            yield
        finally:
            config.use_cache = training

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As upstream, then what it forgets, the manifest that makes the checkpoint complete, and rotation."""
        parent = Path(self._get_output_dir(trial))
        folder = parent / f"{checkpoint.PREFIX}{self.state.global_step}"
        if self.args.should_save:
            checkpoint.clear(folder)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoint.write_json(folder / checkpoint.RUNNING_LOSS, self._running_loss())
            checkpoint.complete(folder)
            checkpoint.rotate(parent, limit, self.state.best_model_checkpoint)

    def _running_loss(self) -> dict[str, Any]:
        """What upstream keeps in memory only: the loss since the last log line, and the sum before it."""
        return {
            "since_log": self._tr_loss.item(),
            "logged_step": self._globalstep_last_logged,
            "before_log": self._loss_before_resume + self._total_loss_scalar,
            "reported": self._reported,
        }

    def _restore_running_loss(self, folder: Path) -> None:
        kept = checkpoint.read_json(folder / checkpoint.RUNNING_LOSS)
        self._tr_loss += kept["since_log"]
        self._globalstep_last_logged = int(kept["logged_step"])
        self._loss_before_resume = kept["before_log"]
        self._reported = kept["reported"]


def model_loss(model: Any, batch: Batch) -> Loss:
    """The default of `toolkit_loss`: the model's own mean loss, in nats, times the batch's targets."""
    outputs = model(**{key: value for key, value in batch.items() if key not in _OUR_KEYS})
    return Loss(outputs.loss * batch["num_targets"], batch["num_targets"], outputs=outputs)


def _overrides(trainer: Trainer, method: str) -> bool:
    return getattr(type(trainer), method) is not getattr(Trainer, method)
