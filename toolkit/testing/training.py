"""A few steps of a subject's model by the real trainer, to be compared with a few other ones."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.errors import PluginError
from toolkit.execution import Execution
from toolkit.folder import RunFolder
from toolkit.signals import Signals
from toolkit.testing.comparing import relative
from toolkit.trainer import model_loss
from toolkit.types import Batch, Loss, Scored

if TYPE_CHECKING:
    from toolkit.testing.subject import Subject

_PLAIN: dict[str, Any] = {
    "max_steps": 2, "optim": "sgd", "learning_rate": 0.01, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    "max_grad_norm": 0.0, "save_strategy": "no", "train_sampling_strategy": "random",
}  # fmt: skip
"""Steps whose changes are the gradients."""
_numbers = itertools.count()


def exact_model(subject: Subject) -> Any:
    """A copy of the model, in float64 where it can be, that never draws: it stays in evaluation mode."""
    return _at_rest(subject, in_float64=subject.is_exact)


def works_in_float64(subject: Subject) -> bool:
    """Whether a batch can be computed so."""
    if getattr(subject.loaded[0], "is_quantized", False):
        return False
    loss = subject.plugins.loss() or model_loss
    try:
        with torch.no_grad():
            loss(_at_rest(subject, in_float64=True), _in_float64(subject.batch()))
    except (RuntimeError, TypeError, ValueError):  # as torch has it where two types meet
        return False
    return True


def _at_rest(subject: Subject, in_float64: bool) -> Any:
    model = copy.deepcopy(subject.loaded[0])
    if in_float64:
        model.double()
    model.eval()
    model.train = lambda mode=True: model
    return model


def exact(subject: Subject, batch: Batch) -> Batch:
    """The batch in the precision of `exact_model`."""
    return _in_float64(batch) if subject.is_exact else batch


def _in_float64(batch: Batch) -> Batch:
    return {
        key: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for key, value in batch.items()
    }


def loss_of(subject: Subject, model: Any, batch: Batch) -> Loss:
    """What `toolkit_loss` says, or its default."""
    return (subject.plugins.loss() or model_loss)(model, exact(subject, batch))


def scored(subject: Subject, model: Any, batches: Iterable[Batch]) -> Iterator[Scored]:
    """Each batch as an evaluation has it."""
    own = subject.plugins.evaluate_batch(subject.processor)
    with torch.no_grad():
        for batch in batches:
            given = exact(subject, batch)
            yield own(model, given) if own is not None else Scored(loss_of(subject, model, batch), given)


@dataclass(frozen=True)
class Trained:
    """What came of two steps.

    Attributes:
        changes: of the weights that train, by name.
        metrics: of the rows that the recipe measures, afterwards; empty where there are none.
    """

    changes: Mapping[str, Tensor]
    metrics: Mapping[str, float]

    def differences(self, other: Trained, tolerance: float) -> Iterator[str]:
        """Where the other one is further apart than the tolerance, relatively."""
        largest = max(float(change.abs().max()) for change in self.changes.values())
        apart = {name: float((one - other.changes[name]).abs().max()) for name, one in self.changes.items()}
        furthest = max(apart, key=lambda name: apart[name])
        if not apart[furthest] <= tolerance * largest:
            yield f"{furthest} changes otherwise, by {apart[furthest] / largest:.1e} of the largest change"
        for name, value in self.metrics.items():
            if relative(value, other.metrics[name]) > tolerance:
                yield f"{name} is {other.metrics[name]:.9g}, not {value:.9g}"


def trained(subject: Subject, **train: Any) -> Trained:
    """Two steps of plain gradient descent, then an evaluation.

    Args:
        train: changes to the recipe's `train`.
    Raises:
        PluginError: no weight changes, so that nothing could be compared.
    """
    model = exact_model(subject)
    before = _trainable(model)
    plugins = subject.plugins.with_recipe(subject.recipe.override(train={**_PLAIN, **train}))
    files = RunFolder(new_folder(subject))
    splits = {**subject.splits, "train": subject.whole_batches(4)}
    execution = Execution(plugins, files, splits, model, subject.processor, Signals())
    trainer, split = execution.trainer, execution.measured_split
    collate = trainer.data_collator
    trainer.data_collator = lambda fetched: exact(subject, collate(fetched))
    trainer.train()
    changes = {name: weights - before[name] for name, weights in _trainable(model).items()}
    if not any(bool(change.any()) for change in changes.values()):
        raise PluginError(
            "two steps of training change no weight", hint="the loss has to depend on weights that train"
        )
    return Trained(changes, execution.evaluate(split) if split else {})


def _trainable(model: Any) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}


def new_folder(subject: Subject) -> Path:
    return subject.folder / f"run-{next(_numbers)}"
