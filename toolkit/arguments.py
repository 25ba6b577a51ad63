"""Training arguments: transformers' own in every spelling, and those of a recipe's `train` section."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from toolkit.errors import RecipeError
from toolkit.notices import say_once
from toolkit.spellings import modern
from toolkit.structure import show, unknown_key

# What a run decides for itself: its folder layout, what it shows, and that collators see every column.
_OURS = {"disable_tqdm": True, "remove_unused_columns": False, "log_level": "error"}
_NOT_HERE = ("push_to_hub", "label_smoothing_factor", "bf16_full_eval", "fp16_full_eval")
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
    """

    logging_dir: str | None = None

    def __init__(self, *args: Any, logging_dir: str | None = None, **values: Any) -> None:
        """Raises RecipeError for an argument that exists no more, with what to use instead."""
        self.logging_dir = logging_dir
        super().__init__(*args, **_saved_when_evaluated(modern(values)))


def _saved_when_evaluated(values: dict[str, Any]) -> dict[str, Any]:
    """The best model can be loaded at the end only if each one that is evaluated is saved."""
    evaluate = str(getattr(values.get("eval_strategy", "no"), "value", values.get("eval_strategy", "no")))
    save = str(getattr(values.get("save_strategy", "steps"), "value", values.get("save_strategy", "steps")))
    if (
        not values.get("load_best_model_at_end")
        or evaluate == save
        or "no" in (evaluate, save)
        or save == "best"
    ):
        return values
    say_once(
        f"save_strategy={save} follows eval_strategy={evaluate}, so that the best model can be loaded at the end"
    )
    steps = values.get("eval_steps") or values.get("logging_steps", 500)
    return {**values, "save_strategy": evaluate, **({"save_steps": steps} if evaluate == "steps" else {})}


def argument_faults(train: Mapping[str, Any]) -> list[RecipeError]:
    """Keys that are no field of TrainingArguments, and values of another type than the field's."""
    types = typing.get_type_hints(TrainingArguments)
    names = list(TrainingArguments.__dataclass_fields__)
    faults = []
    for key, value in train.items():
        if key not in names:
            faults.append(unknown_key(f"train.{key}", key, names))
        elif (problem := _type_problem(types[key], value)) is not None:
            faults.append(RecipeError(f"train.{key}: {problem}, found {show(value)}"))
    return faults


def training_arguments(train: Mapping[str, Any], output_dir: Path, **derived: Any) -> TrainingArguments:
    """The arguments of a run whose checkpoints go to `output_dir`.

    Args:
        derived: values that count only where the recipe is silent.
    Raises:
        RecipeError: TrainingArguments refuses a value or a combination of them.
    """
    for key in _NOT_HERE:
        if train.get(key):
            raise RecipeError(f"train.{key}: not available in a run", hint="leave it out")
    strategy = train.get("train_sampling_strategy", "random")
    if strategy not in _ORDERS:
        raise RecipeError(
            f"train.train_sampling_strategy: '{strategy}' is not available",
            hint=f"one of: {', '.join(_ORDERS)}",
        )
    derived["dataloader_pin_memory"] = torch.accelerator.is_available()
    values = {**_DEFAULTS, **derived, **train, **_OURS, "output_dir": str(output_dir)}
    try:
        return TrainingArguments(**values)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise RecipeError(f"train: {error}", hint="see transformers.TrainingArguments") from error


def _type_problem(kind: Any, value: Any) -> str | None:
    try:
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError as error:
        message: str = error.errors()[0]["msg"]
        return message[0].lower() + message[1:]
    except (PydanticSchemaGenerationError, PydanticUserError):
        return None
    return None
