"""Training arguments: transformers' own in every spelling, and those of a recipe's `train` section."""

from __future__ import annotations

import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from toolkit import ranks
from toolkit.errors import RecipeError, did_you_mean
from toolkit.notices import say_once, without_credentials
from toolkit.spellings import modern
from toolkit.structure import show, unknown_key, wrong_value

# What a run decides for itself: its folder layout, what it shows, that collators see every column, where it resumes,
# and that its model folder is pushed, not its checkpoints.
_OURS = {"disable_tqdm": True, "remove_unused_columns": False, "log_level": "error", "push_to_hub": False,
         "resume_from_checkpoint": None}  # fmt: skip
_NOT_HERE = {"label_smoothing_factor": 0, "bf16_full_eval": False, "fp16_full_eval": False, "ignore_data_skip": False,
             "restore_callback_states_from_checkpoint": True}  # fmt: skip
"""What would not do what it says, or make a resume another run, and the value that is let through."""
_AT_LEAST_ONE = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "save_total_limit",
)
_NOT_NEGATIVE = (
    "learning_rate",
    "weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "dataloader_num_workers",
    "seed",
    "data_seed",
)
_ABOVE_ZERO = ("eval_steps", "save_steps", "logging_steps")
_MOST_SEED = 2**32 - 1
_MOST_WORKERS = max(64, 8 * (os.cpu_count() or 1))
"""More help nobody, and many more fill the machine before there is an error."""
_ORDERS = ("random", "sequential", "group_by_length")
_DEFAULTS = {
    "report_to": "none",
    "save_strategy": "epoch",
    "logging_steps": 10,
    "restore_callback_states_from_checkpoint": True,
}


@dataclass(init=False)
class TrainingArguments(transformers.TrainingArguments):
    """`transformers.TrainingArguments`, which also takes the names of older releases.

    Attributes:
        logging_dir: where TensorBoard's files go; by default `runs/` in `output_dir`.
        resume_from_checkpoint: a checkpoint's folder, or True for the newest one in `output_dir`, if there is any.
        on_nan_inf: what becomes of a step whose loss or gradient is no number: `stop` ends training before it, `skip`
            leaves the step out, its rows unlearnt.
    """

    logging_dir: str | None = None
    on_nan_inf: Literal["stop", "skip"] = "stop"
    resume_from_checkpoint: str | bool | None = None

    def __init__(
        self,
        *args: Any,
        logging_dir: str | None = None,
        on_nan_inf: Literal["stop", "skip"] = "stop",
        **values: Any,
    ) -> None:
        """Raises RecipeError for an argument that exists no more, with what to use instead."""
        self.logging_dir = logging_dir
        self.on_nan_inf = on_nan_inf
        super().__init__(*args, **_saved_when_evaluated(modern(values)))

    def to_dict(self) -> dict[str, Any]:
        """As upstream, for trackers to keep: without tokens, those in addresses neither."""
        values = super().to_dict()
        return {key: without_credentials(one) if isinstance(one, str) else one for key, one in values.items()}


def _saved_when_evaluated(values: dict[str, Any]) -> dict[str, Any]:
    """The best model can be loaded at the end only if each one that is evaluated is saved."""
    evaluate = IntervalStrategy(values.get("eval_strategy", "no")).value
    save = SaveStrategy(values.get("save_strategy", "steps")).value
    if not values.get("load_best_model_at_end") or save in (evaluate, "no", "best") or evaluate == "no":
        return values
    say_once(
        f"save_strategy={save} follows eval_strategy={evaluate}, so that the best model can be loaded at the end"
    )
    steps = values.get("eval_steps") or values.get("logging_steps", 500)
    return {**values, "save_strategy": evaluate, **({"save_steps": steps} if evaluate == "steps" else {})}


def argument_faults(train: Mapping[str, Any]) -> list[RecipeError]:
    """Keys that are no field of TrainingArguments, values of another type than the field's, and some out of range."""
    types = typing.get_type_hints(TrainingArguments)
    names = list(TrainingArguments.__dataclass_fields__)
    faults = []
    for key, value in train.items():
        if key not in names:
            faults.append(unknown_key(f"train.{key}", key, names))
        elif (problem := _type_problem(types[key], value)) is not None:
            faults.append(wrong_value(f"train.{key}", problem, value))
        else:
            faults += _choice_faults(key, types[key], value) or _range_faults(key, value)
    return faults + _length_faults(train)


def training_arguments(train: Mapping[str, Any], output_dir: Path, **derived: Any) -> TrainingArguments:
    """The arguments of a run whose checkpoints go to `output_dir`.

    Args:
        derived: values that count only where the recipe is silent.
    Raises:
        RecipeError: TrainingArguments refuses a value or a combination of them.
    """
    for key, usual in _NOT_HERE.items():
        if train.get(key) not in (None, usual):
            raise RecipeError(f"train.{key}: not available in a run", hint="leave it out")
    strategy = train.get("train_sampling_strategy", "random")
    if strategy not in _ORDERS:
        raise RecipeError(
            f"train.train_sampling_strategy: '{strategy}' is not available",
            hint=f"one of: {', '.join(_ORDERS)}",
        )
    derived["dataloader_pin_memory"] = torch.accelerator.is_available()
    if ranks.count() > 1 and not torch.accelerator.is_available():
        derived["use_cpu"] = True  # unless it is said, each process would train for itself
    values = {**_DEFAULTS, **derived, **train, **_OURS, "output_dir": str(output_dir)}
    try:
        return TrainingArguments(**values)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise RecipeError(f"train: {error}", hint="see transformers.TrainingArguments") from error


def _choice_faults(key: str, kind: Any, value: Any) -> list[RecipeError]:
    """Text that is none of the choices of a field that takes text as well as an enumeration."""
    enums = [one for one in typing.get_args(kind) if isinstance(one, type) and issubclass(one, Enum)]
    if not isinstance(value, str) or not enums:
        return []
    choices = [str(member.value) for one in enums for member in one]
    if value in choices:
        return []
    hint = did_you_mean(value, choices) or f"one of: {', '.join(choices)}"
    return [RecipeError(f"train.{key}: there is no '{value}'", hint)]


def _range_faults(key: str, value: Any) -> list[RecipeError]:
    """What upstream lets pass, to fail in the middle of a run or to do nothing."""
    if value is None:
        return []
    if key == "report_to":
        return _tracker_faults(value)
    expected = None
    if key in _AT_LEAST_ONE and value < 1:
        expected = "at least 1"
    elif key in _NOT_NEGATIVE and not value >= 0:
        expected = "at least 0"
    elif key in _ABOVE_ZERO and not value > 0:
        expected = "more than 0"
    elif key in ("seed", "data_seed") and value > _MOST_SEED:
        expected = f"at most {_MOST_SEED}"
    elif key == "dataloader_num_workers" and value > _MOST_WORKERS:
        expected = f"at most {_MOST_WORKERS}"
    elif key in ("adam_beta1", "adam_beta2") and not 0 <= value < 1:
        expected = "at least 0 and below 1"
    return [_out_of_range(key, expected, value)] if expected else []


def _out_of_range(
    key: str, expected: str, value: Any, hint: str = "leave it out for the default"
) -> RecipeError:
    return RecipeError(f"train.{key}: must be {expected}, found {show(value)}", hint)


def _length_faults(train: Mapping[str, Any]) -> list[RecipeError]:
    """A run of no steps, which would save an untrained model."""
    steps, epochs = train.get("max_steps", -1), train.get("num_train_epochs", 3)
    if isinstance(steps, int) and (steps == 0 or steps < -1):
        return [_out_of_range("max_steps", "at least 1", steps, "leave it out to train whole epochs")]
    if steps == -1 and isinstance(epochs, int | float) and not epochs > 0:
        return [
            _out_of_range("num_train_epochs", "more than 0", epochs, "a part of an epoch is a fraction: 0.1")
        ]
    return []


def _tracker_faults(report_to: str | list[str]) -> list[RecipeError]:
    from transformers.integrations import get_available_reporting_integrations

    there = get_available_reporting_integrations()
    wanted = [report_to] if isinstance(report_to, str) else report_to
    return [
        RecipeError(
            f"train.report_to: no tracker named '{name}' is installed (installed: {', '.join(there) or 'none'})",
            hint=f"pip install {name}, if that is its name, or leave it out",
        )
        for name in wanted
        if name not in (*there, "all", "none", "flyte")
    ]


def is_on_cpu(train: Mapping[str, Any]) -> bool:
    """Whether a run with these settings computes on the CPU."""
    return bool(TrainingArguments(use_cpu=bool(train.get("use_cpu"))).device.type == "cpu")


def _type_problem(kind: Any, value: Any) -> Any:
    """What pydantic finds wrong with a value, or None."""
    try:
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError as error:
        return error.errors()[0]
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None
    return None
