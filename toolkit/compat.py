"""What scripts for older releases of transformers lean on: spellings, signatures and methods."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader
from transformers.integrations import TensorBoardCallback
from transformers.integrations.deepspeed import propagate_args_to_deepspeed
from transformers.trainer_utils import EvalLoopOutput

from toolkit.errors import RecipeError
from toolkit.notices import say_once
from toolkit.resuming import ResumableTrainer


class CompatibleTrainer(ResumableTrainer):
    """A trainer for scripts and subclasses that were written for older releases."""

    args: Any
    model: Any
    model_init: Any

    def __init__(self, *args: Any, tokenizer: Any = None, **kwargs: Any) -> None:
        """`tokenizer`: the older name of `processing_class`."""
        if tokenizer is not None:
            if kwargs.get("processing_class") is not None:
                raise RecipeError(
                    "Trainer: tokenizer is an older name of processing_class, which is given too",
                    hint="keep processing_class",
                )
            say_once("Trainer(tokenizer=...) is called processing_class today")
            kwargs["processing_class"] = tokenizer
        super().__init__(*args, **kwargs)
        # Upstream sets it in `train`, without which `training_step` could not be called.
        self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
        for name, adapted in (
            ("compute_loss", _loss_without_count),
            ("training_step", self._step_without_count),
        ):
            method = getattr(self, name)
            if not _takes_count(method):
                setattr(self, name, adapted(method))
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and getattr(self.args, "logging_dir", None):
                callback.logging_dir = self.args.logging_dir

    @property
    def tokenizer(self) -> Any:
        """The older name of `processing_class`."""
        return self.processing_class

    def _step_without_count(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step of one's own, `(model, inputs) -> loss`, which has called `backward` itself."""
        if (parts := self.args.gradient_accumulation_steps) > 1:
            say_once(
                f"{type(self).__name__}.training_step has to divide its loss by {parts}, as many as are accumulated"
            )

        def training_step(model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            model.train()
            return step(model, self._prepare_inputs(inputs)).detach()

        return training_step

    def prediction_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The older name of `evaluation_loop`."""
        say_once("Trainer.prediction_loop is called evaluation_loop today")
        return self.evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )

    def propagate_args_to_deepspeed(self, auto_find_batch_size: bool = False) -> None:
        """Fill in what DeepSpeed's configuration leaves to the arguments as `auto`; without DeepSpeed there is nothing.

        Args:
            auto_find_batch_size: take the batch size from the arguments, also where the configuration has one.
        """
        if self.is_deepspeed_enabled:
            propagate_args_to_deepspeed(self.accelerator, self.args, auto_find_batch_size)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> Any:
        """As upstream, also for a trainer that was given `model=`: each trial begins with the model as it is now.

        The trainer's model and arguments are afterwards what they were before.
        """
        if self.model_init is not None:
            return super().hyperparameter_search(*args, **kwargs)
        start, arguments = self.model, copy.copy(self.args)
        self.model_init = lambda: _copied(start)
        try:
            return super().hyperparameter_search(*args, **kwargs)
        finally:
            self.model_init, self.args = None, arguments
            self.model = self.model_wrapped = start


def _copied(model: Any) -> Any:
    """A copy that shares what is not trained, and so cannot change."""
    return copy.deepcopy(model, {id(one): one for one in model.parameters() if not one.requires_grad})


def _takes_count(method: Callable[..., Any]) -> bool:
    parameters = inspect.signature(method).parameters
    return "num_items_in_batch" in parameters or any(
        one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()
    )


def _loss_without_count(method: Callable[..., Any]) -> Callable[..., Any]:
    def compute_loss(
        model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return method(model, inputs, return_outputs) if return_outputs else method(model, inputs)

    return compute_loss
