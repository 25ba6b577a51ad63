"""Which modules an adapter trains, named as in a recipe, and PEFT to train them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
import warnings
from collections.abc import Mapping
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import TypeAdapter, ValidationError
from torch import nn

from toolkit.discovery import did_you_mean
from toolkit.errors import ModelError, RecipeError
from toolkit.modules import SELECTION, expand, expression_faults, glob
from toolkit.structure import no_mapping, plain, show, unknown_key, wrong_value

_KINDS = ("lora",)
_STARTS = ("gaussian", "olora", "orthogonal", "pissa", "pissa_niter_N", "mica", "loftq")
_STARTS_FROM_DATA = ("eva", "corda", "lora_ga")


class LoraConfig(peft.LoraConfig):
    """PEFT's, with globs in `target_modules` also where PEFT alone reads it, as in `model.add_adapter(config)`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = vars(self)["target_modules"]
        globs = isinstance(entries, set) and any("*" in entry for entry in entries)
        if globs and self.layers_to_transform is None:
            self.globs = sorted(entries)
            self.target_modules = "|".join(glob(entry).pattern for entry in self.globs)


# ---- adapting ------------------------------------------------------------------------------------------


def adapt(model: nn.Module, adapter: Mapping[str, Any] | peft.PeftConfig) -> Any:
    """The model with an adapter, ready to train; what else trains is PEFT's decision (`bias`, `modules_to_save`).

    New weights are drawn from torch's global generator.

        model = adapt(model, {"r": 16, "target_modules": ["decoder.layers.*.self_attn.q_proj"]})

    Args:
        adapter: as in a recipe (`kind`, by default lora, and fields of `peft.LoraConfig`), or a PEFT config.
    Raises:
        RecipeError: a setting is wrong, or names modules that are not there; all faults together.
        ModelError: the model has an adapter already.
    """
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise ModelError(
            f"the {type(model).__name__} has an adapter already",
            hint="leave `adapter` out to train that one further, or merge it into the weights first",
        )
    config = expand(model, adapter if isinstance(adapter, peft.PeftConfig) else configure(adapter))
    _check_task(model, config)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT reads what transformers renamed
            adapted: Any = peft.get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise RecipeError(f"adapter: {error}", hint="see peft.LoraConfig") from error
    # PEFT may have shortened the list to a set, whose order differs from process to process in what is saved.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    return adapted


def _check_task(model: nn.Module, config: peft.PeftConfig) -> None:
    reads = getattr(model, "main_input_name", "input_ids")
    if config.task_type and reads != "input_ids":
        raise RecipeError(
            f"adapter.task_type: for {config.task_type} PEFT passes input_ids; {type(model).__name__} reads {reads}",
            hint="leave task_type out",
        )


def configure(adapter: Mapping[str, Any]) -> peft.LoraConfig:
    """A recipe's `adapter` as PEFT's config, its fields checked; which modules it names is for `expand` to say.

    Raises:
        RecipeError: every unknown key and every value of the wrong type or out of range, together.
    """
    if not isinstance(adapter, Mapping):
        raise no_mapping("adapter", adapter)
    values = {key: value for key, value in plain(adapter, "adapter").items() if value is not None}
    kind = values.pop("kind", "lora")
    if kind not in _KINDS:
        raise RecipeError(
            f"adapter.kind: no adapter named {show(kind)} (there is: {', '.join(_KINDS)})",
            hint=did_you_mean(str(kind), _KINDS) or "for PEFT's others, give a config to `toolkit.adapt`",
        )
    if faults := _field_faults(values):
        raise RecipeError.gather(faults)
    # PEFT refuses combinations that are fine once the names are full: it shall see them only then.
    selection = {key: values.pop(key) for key in SELECTION if key in values}
    try:
        config = peft.LoraConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"adapter: {error}", hint="see peft.LoraConfig") from error
    for key, value in selection.items():
        setattr(config, key, value)
    return config


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are; a 4-bit weight counts as the weights packed into it."""
    counts = [(_count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def _count(parameter: nn.Parameter) -> int:
    packed: Any = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed is not None else parameter.numel()


# ---- fields --------------------------------------------------------------------------------------------


def _field_faults(values: Mapping[str, Any]) -> list[RecipeError]:
    kinds = typing.get_type_hints(peft.LoraConfig)
    names = [field.name for field in dataclasses.fields(peft.LoraConfig)]
    faults = [unknown_key(f"adapter.{key}", key, names) for key in values if key not in names]
    for key, value in values.items():
        if key == "init_lora_weights":
            faults += _start_faults(value)
        elif key in names:
            faults += _type_faults(key, value, kinds[key]) or _value_faults(key, value)
    if "layers_pattern" in values and "layers_to_transform" not in values:
        faults.append(
            RecipeError(
                "adapter.layers_pattern: needs layers_to_transform beside it",
                hint="add it, or leave layers_pattern out",
            )
        )
    return faults


def _type_faults(key: str, value: Any, kind: Any) -> list[RecipeError]:
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [wrong_value(f"adapter.{key}", error.errors()[0], value)]
    return []


def _value_faults(key: str, value: Any) -> list[RecipeError]:
    """Numbers out of range, and text that is no regular expression where PEFT reads it as one."""
    where = f"adapter.{key}"
    if key == "lora_dropout" and not 0 <= value < 1:
        return [
            RecipeError(
                f"{where}: must be at least 0 and below 1, found {value}",
                hint="0.05 is usual, 0 drops nothing",
            )
        ]
    if key in ("r", "lora_alpha"):
        return (
            []
            if value >= 1
            else [RecipeError(f"{where}: must be at least 1, found {value}", hint="8 to 64 is usual")]
        )
    if key in ("rank_pattern", "alpha_pattern"):
        wrong = [number for number in value.values() if type(number) is not int or number < 1]
        faults = [
            RecipeError(
                f"{where}: must be a whole number of at least 1, found {show(one)}",
                hint="for example {q_proj: 8}",
            )
            for one in wrong
        ]
        return faults + expression_faults(key, value)
    if key in ("modules_to_save", "layers_pattern"):
        return expression_faults(key, [value] if isinstance(value, str) else value)
    return expression_faults(key, [value]) if key in SELECTION and isinstance(value, str) else []


def _start_faults(value: Any) -> list[RecipeError]:
    """What is wrong with `init_lora_weights`."""
    where, known = "adapter.init_lora_weights", f"true, false, {', '.join(_STARTS)}"
    if value in _STARTS_FROM_DATA:
        return [
            RecipeError(f"{where}: '{value}' needs a pass over the data first", hint=f"use one of {known}")
        ]
    if value == "loftq" and not torch.accelerator.is_available():
        return [
            RecipeError(f"{where}: PEFT computes 'loftq' on a GPU; there is none", hint="use pissa or true")
        ]
    if isinstance(value, bool) or value in _STARTS or re.fullmatch(r"pissa_niter_\d+", str(value)):
        return []
    hint = did_you_mean(str(value), _STARTS) or f"one of {known}"
    return [RecipeError(f"{where}: there is no way to start named {show(value)}", hint)]
