"""An optimizer and its scheduler that go on from a checkpoint, with what has been set otherwise since."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from toolkit.errors import CheckpointError
from toolkit.notices import json_text
from toolkit.structure import show

KIND = ("optim", "optim_args", "optim_target_modules")
"""What the optimizer's state depends on, so that it is of no use to one that is set otherwise."""
_HYPERPARAMETERS = ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon")
_RATE = ("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs")
_IN_GROUPS = ("initial_lr", "weight_decay", "betas", "eps")


def optimizer_settings(arguments: Any, steps: int) -> dict[str, Any]:
    """The settings that make an optimizer and the course of its learning rate, as a file gives them back."""
    values = arguments.to_dict()
    kept = {name: values[name] for name in (*KIND, *_HYPERPARAMETERS, *_RATE)}
    kept |= {"steps": steps, "warmup": arguments.get_warmup_steps(steps)}
    return dict(json.loads(json_text(kept)))


@contextlib.contextmanager
def as_set_now(trainer: Any, made_with: Mapping[str, Any]) -> Iterator[None]:
    """Meanwhile the states of optimizer and scheduler are loaded; settings that were others when they were saved stay.

    Where none was, and of a scheduler that is the script's own, everything is as it is loaded.

    Args:
        made_with: the settings that the checkpoint was made with; empty where they are not known.
    Raises:
        CheckpointError: the optimizer is another.
    """
    now = optimizer_settings(trainer.args, trainer.state.max_steps)
    changed = [name for name in now if made_with.get(name, now[name]) != now[name]]
    _refuse_another_kind(changed, made_with, now)
    if not changed or not trainer._created_lr_scheduler:
        yield
        return
    scheduler, built = trainer.lr_scheduler, [dict(group) for group in trainer.optimizer.param_groups]
    # What a scheduler of another kind has seen so far is kept unless the rate that it moves is another.
    anew = isinstance(scheduler, LambdaLR) or any(name in _RATE for name in changed)
    if anew:
        trainer.lr_scheduler = SimpleNamespace(load_state_dict=lambda state: None)
    try:
        yield
    finally:
        trainer.lr_scheduler = scheduler
    for group, own in zip(trainer.optimizer.param_groups, built, strict=True):
        names = (*_IN_GROUPS, *(["lr"] if anew else []))
        group.update({name: own[name] for name in names if name in own})
    if isinstance(scheduler, LambdaLR):
        _put_at(scheduler, trainer.state.global_step)


def _refuse_another_kind(changed: list[str], there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    different = [
        f"train.{name}: {show(there[name])} there, {show(here[name])} here"
        for name in changed
        if name in KIND
    ]
    if different:
        raise CheckpointError(
            "the checkpoint holds the state of another optimizer: " + ", ".join(different),
            hint="go on with that one, or start another run from the weights: --model .../checkpoint-N",
        )


def _put_at(scheduler: LambdaLR, step: int) -> None:
    """Have the learning rate of each group be what it is after `step` steps."""
    rates = [
        base * factor(step) for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    where = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    scheduler.load_state_dict({**scheduler.state_dict(), **where})
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
