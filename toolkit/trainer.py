"""The loop: transformers' Trainer, with loss, collator and metrics from the plugins.

for each epoch:                                   order of rows: (seed, epoch)
    for each optimizer step:
        batches = next micro-batches              toolkit_prepare, toolkit_augment, toolkit_collator, in workers
        targets = sum of num_targets              over micro-batches and ranks, before any forward
        for each micro-batch:
            loss = toolkit_loss(model, batch)     a sum, in nats; toolkit_wrap_loss
            backward(loss.total x ranks / targets)
            or toolkit_step(model, batch, backward) does both
        optimizer step
    evaluate, save as train.eval_strategy and train.save_strategy say
        for each batch: toolkit_evaluate_batch -> toolkit_metrics
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, SequentialSampler
from transformers.trainer_utils import EvalLoopOutput

from toolkit import ranks
from toolkit.adalora import orthogonality
from toolkit.answers import expected_loss, expected_scored, require
from toolkit.compat import CompatibleTrainer
from toolkit.data.columns import in_batches
from toolkit.data.rows import BadRow, CollateFetched, PreparedRows, Quarantine
from toolkit.data.sampling import EpochSampler, LengthSampler
from toolkit.linear import swift_linear
from toolkit.metrics import SAMPLES, Sample, Scores
from toolkit.notices import say
from toolkit.plugins import Plugins
from toolkit.types import Batch, Loss, Row, Scored

_OUR_KEYS = ("num_targets", "row_id", "work", "columns", "bad_rows")


class Trainer(CompatibleTrainer):
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
        self._known_lengths: dict[str, Sequence[float]] = {}
        self._streaming = False
        self._most_samples = SAMPLES
        self._step: Any = None
        self.samples: list[Sample] = []
        """Of the last evaluation."""
        if plugins is not None:
            processor = kwargs.get("processing_class")
            kwargs["data_collator"] = CollateFetched(
                plugins.collator(processor), in_batches(plugins.columns())
            )
            self._loss = self._training_loss = plugins.loss() or model_loss
            for wrap in plugins.wrap_loss():
                self._training_loss = wrap(self._training_loss)
                require(callable(self._training_loss), self._training_loss, "toolkit_wrap_loss", "a callable")
            self._step = plugins.step()
            kwargs["callbacks"] = [*(kwargs.get("callbacks") or ()), *plugins.callbacks()]
        if _overrides(self, "compute_loss") and _says_nothing_of_scaling(self):
            # Most such methods return a mean over the micro-batch, which upstream would take for scaled.
            self.loss_is_scaled_for_ga = False
        super().__init__(*args, **kwargs)
        if (self.args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
            # Such checkpoints give no gradient to the weights in them unless one arrives at their input, which the
            # frozen layers before an adapter do not ask for.
            self.model.enable_input_require_grads()

    # ---- data --------------------------------------------------------------------------------------------

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, PreparedRows):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        strategy = self.args.train_sampling_strategy
        if strategy == "group_by_length":
            in_a_step = (
                self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
            )
            self._train_order = LengthSampler(self._lengths(dataset), seed, in_a_step)
        else:
            self._train_order = EpochSampler(len(dataset), seed, shuffle=strategy == "random")
        if self.args.world_size > 1 and not self.args.dataloader_drop_last:
            self._train_order.shared_out(self.args.world_size, self.args.train_batch_size)
        return self._train_order

    def _lengths(self, dataset: PreparedRows) -> Sequence[float]:
        """How much work each row is, as the plugins tell it; read once, for that reads every row."""
        if dataset.split not in self._known_lengths:
            measure = self._plugins.row_length() if self._plugins is not None else None
            assert measure is not None, "a run without one is refused"
            # Several processes would have to agree on each row; they look for signals from the first step on.
            look = self._interrupted if ranks.count() == 1 else lambda: None

            def length(row: Row) -> float:
                look()
                return measure(row)

            self._known_lengths[dataset.split] = dataset.lengths(length)
        return self._known_lengths[dataset.split]

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """In order; where training goes by length, in `evaluate`, the longest first."""
        if not isinstance(eval_dataset, PreparedRows):
            return super()._get_eval_sampler(eval_dataset)
        if self._streaming and self.args.train_sampling_strategy == "group_by_length":
            lengths = self._lengths(eval_dataset)
            return sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
        return SequentialSampler(eval_dataset) if self.args.world_size == 1 else None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As upstream, which keeps a loader whose workers persist for any rows that are asked for later."""
        with self._without("dataloader_persistent_workers", False):
            return super().get_eval_dataloader(eval_dataset)

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            if self._streaming:  # an even share of rows for each rank would repeat some
                stack.callback(setattr, self.accelerator, "even_batches", self.accelerator.even_batches)
                self.accelerator.even_batches = False
            loader = super()._get_dataloader(dataset, *args, is_training=is_training, **kwargs)
        makes_workers = getattr(loader, "base_dataloader", loader)  # where accelerate has wrapped it
        makes_workers.worker_init_fn = partial(_leave_signals_alone, makes_workers.worker_init_fn)
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one step, with the number of targets in all of them, on all ranks."""
        if self._plugins is None:
            return super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = [*itertools.islice(epoch_iterator, num_batches)]
        self._set_aside([bad for batch in batches for bad in batch.pop("bad_rows", ())])
        for batch in batches:
            self._on_work(batch.get("work", {}))
        targets = torch.tensor(sum(int(batch["num_targets"]) for batch in batches), device=device)
        if self.args.world_size > 1:
            targets = self.accelerator.gather(targets).sum()
        return batches, targets

    def _set_aside(self, bad: Sequence[BadRow]) -> None:
        """Note the rows of all ranks that cannot be used; all of them call this."""
        assert self._quarantine is not None
        if ranks.highest(len(bad)) != [0]:
            everybodys = gather_object([*bad]) if ranks.count() > 1 else bad
            ranks.alike(partial(self._quarantine.add, everybodys))

    # ---- training ------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream."""
        accumulated = self.args.gradient_accumulation_steps
        if self._step is not None and accumulated > 1:
            say(
                f"train.gradient_accumulation_steps: the gradients of {accumulated} batches are averaged, which is not "
                "one batch of all their rows; for that raise train.per_device_train_batch_size"
            )
        with self._swiftly():
            return super().train(*args, **kwargs)

    def _swiftly(self) -> contextlib.AbstractContextManager[None]:
        """Meanwhile a CPU computes the model's linear layers in the swiftest way that torch has."""
        as_upstream = self._plugins is None or self.args.torch_compile
        return contextlib.nullcontext() if as_upstream else swift_linear(self.model)

    def _run_epoch(self, **loop: Any) -> None:
        if self._train_order is not None:
            self._train_order.set_epoch(loop["epoch"])
        super()._run_epoch(**loop)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if _says_nothing_of_scaling(self):
            normalised = self._plugins is not None or self.model_accepts_loss_kwargs
            self.loss_is_scaled_for_ga = (
                normalised and num_items_in_batch is not None
            ) or self.compute_loss_func is not None
        if self._plugins is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = expected_loss(self._training_loss(model, inputs), "toolkit_loss")
        self._note(loss)
        if not int(inputs["num_targets"]):  # what fills up the last step of an epoch
            loss = replace(loss, total=loss.total * 0)
        # Gradients are averaged over ranks, so the share of this rank is taken times their number.
        if num_items_in_batch is None:
            mean = loss.total / max(int(loss.count), 1)
        else:
            mean = loss.total * self.args.world_size / num_items_in_batch.clamp(min=1)
        mean = mean + self._penalty() / self.current_gradient_accumulation_steps
        return (mean, loss.outputs) if return_outputs else mean

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As upstream; a line of training also has the means of what `Loss.report` said since the last one."""
        if "loss" in logs:
            reported = {name: sum(values) / len(values) for name, values in self._reported.items() if values}
            logs |= {name: value for name, value in reported.items() if name not in logs}
            self._reported.clear()
        super().log(logs, start_time)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """As upstream; where a plugin has a step of its own, that, on the whole batch."""
        if self._step is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss = self._own_step(model, inputs, num_items_in_batch)
        self._numbers.note(inputs, loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As upstream; here, before the optimizer's step, it is the place to see whether there should be one."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        self._numbers.judge(model, grad_norm)
        return grad_norm

    def _own_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
        model.train()
        share = self.args.world_size / num_items_in_batch.clamp(min=1)
        loss = self._step(
            model, self._prepare_inputs(inputs), lambda part: self.accelerator.backward(part * share)
        )
        self._note(expected_loss(loss, "toolkit_step"))
        if self._ranks is not None:
            self.accelerator.backward(self._penalty())
        return loss.total.detach() * share

    def _penalty(self) -> Any:
        """What the adapter adds to the loss of a step, where PEFT has not added it to the model's own."""
        if self._ranks is None:
            return 0.0
        by_peft = self._ranks.config.task_type is not None and self._loss is model_loss
        return 0.0 if by_peft else orthogonality(self._ranks.adalora)

    def _note(self, loss: Loss) -> None:
        for name, value in loss.report.items():
            self._reported.setdefault(name, []).append(float(value))

    # ---- evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As upstream, except that with plugins the metrics stream and `loss` is nats per target."""
        self._streaming = self._plugins is not None and self.compute_metrics is None
        try:
            with self._swiftly():
                return super().evaluate(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            self._streaming = False

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *args: Any, **kwargs: Any
    ) -> Any:
        """As upstream; in `evaluate`, with plugins, streaming."""
        if not self._streaming:
            return super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        with _randomness_kept():
            scores = self._scores(dataloader)
        self.samples = sorted(scores.samples, key=lambda one: one.row_id)
        values = {f"{prefix}_{name}": value for name, value in scores.compute().items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=values, num_samples=scores.rows)

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """As upstream; with plugins the loss is theirs, and the predictions are its outputs' logits."""
        if self._plugins is None:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)  # type: ignore[no-any-return]
        self._set_aside(inputs.pop("bad_rows", ()))
        if "num_targets" not in inputs:
            return None, None, None
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            loss = expected_loss(self._loss(self.model, batch), "toolkit_loss")
        mean = loss.total / max(int(loss.count), 1)
        if prediction_loss_only:
            return mean, None, None
        return mean, getattr(loss.outputs, "logits", loss.outputs), batch.get("labels")

    def _scores(self, dataloader: DataLoader[Any]) -> Scores:
        assert self._plugins is not None
        evaluate_batch = self._plugins.evaluate_batch(self.processing_class) or self._loss_alone
        scores = Scores(self._plugins.metrics(self.processing_class), self._most_samples)
        self.model.eval()
        self.callback_handler.eval_dataloader = dataloader
        batches = iter(dataloader)
        for _ in range(
            *ranks.highest(len(dataloader))
        ):  # a rank that has fewer takes part in what is agreed on
            self._interrupted()
            batch: Batch = next(batches, {})
            self._set_aside(batch.pop("bad_rows", ()))
            if "num_targets" in batch:
                inputs = self._prepare_inputs(batch)
                with torch.no_grad(), self.accelerator.autocast():
                    scores.update(expected_scored(evaluate_batch(self.model, inputs)))
            self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.args.world_size > 1:
            first, *others = gather_object([scores])
            for other in others:
                first.merge(other)
            scores = first
        return scores

    @contextlib.contextmanager
    def predicting(self, plugins: Plugins) -> Iterator[None]:
        """Meanwhile an evaluation keeps a sample of every row, as `plugins` make it."""
        before, self._plugins, self._most_samples = self._plugins, plugins, sys.maxsize
        try:
            yield
        finally:
            self._plugins, self._most_samples = before, SAMPLES

    def score(self, batch: Batch) -> Scored:
        """The loss of one batch and what the metrics need, in evaluation mode."""
        assert self._plugins is not None
        evaluate_batch = self._plugins.evaluate_batch(self.processing_class) or self._loss_alone
        return expected_scored(evaluate_batch(self.model.eval(), self._prepare_inputs(batch)))

    def _loss_alone(self, model: Any, batch: Batch) -> Scored:
        return Scored(expected_loss(self._loss(model, batch), "toolkit_loss"), batch)


def model_loss(model: Any, batch: Batch) -> Loss:
    """The default of `toolkit_loss`: the model's own mean loss, in nats, times the batch's targets."""
    outputs = model(**{key: value for key, value in batch.items() if key not in _OUR_KEYS})
    # The mean over no target is no number.
    total = outputs.loss * batch["num_targets"] if batch["num_targets"] else outputs.logits.sum() * 0
    return Loss(total, batch["num_targets"], outputs=outputs)


def _overrides(trainer: Trainer, method: str) -> bool:
    return getattr(type(trainer), method) is not getattr(Trainer, method)


def _says_nothing_of_scaling(trainer: Trainer) -> bool:
    return getattr(type(trainer), "loss_is_scaled_for_ga", None) is None


@contextlib.contextmanager
def _randomness_kept() -> Iterator[None]:
    """Leave the generators as they were, so that training is the same with and without evaluations."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _leave_signals_alone(start: Callable[[int], None] | None, worker: int) -> None:
    """In a data worker: a signal to all processes of a run is for the main process to answer, which ends workers."""
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":  # which tells who has sent one
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_told, daemon=True).start()
    if start is not None:
        start(worker)


def _end_when_told() -> None:
    """Wait for SIGTERM from the main process; without it a worker that hangs would be waited for in the end."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
