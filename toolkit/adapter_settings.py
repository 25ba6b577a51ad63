"""A recipe's `adapter`: which kinds PEFT has, and what is wrong with the fields of one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import typing
from collections.abc import Mapping
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import TypeAdapter, ValidationError

from toolkit import loftq
from toolkit.errors import RecipeError, did_you_mean
from toolkit.modules import SELECTION, expression_faults
from toolkit.structure import show, unknown_key, wrong_value

_SHORT = {"prompt": "prompt_tuning", "prefix": "prefix_tuning"}
NEEDS_MORE = {
    "cpt": "the tokens of a prompt",
    "multitask_prompt_tuning": "the number of a task beside each row",
    "poly": "the number of a task beside each row",
    "shadow": "a second model beside the first",
    "xlora": "adapters that are trained already",
}
_STARTS = ("gaussian", "olora", "orthogonal", "pissa", "pissa_niter_N", "mica", "loftq")
_STARTS_FROM_DATA = ("eva", "corda", "lora_ga")
_POSITIVE = ("r", "lora_alpha", "init_r", "target_r", "num_virtual_tokens")


def config_class(kind: Any) -> Any:
    """PEFT's class for a kind of adapter: `lora`, `ia3`, `vera`, … as PEFT names them, in small letters.

    Raises:
        RecipeError: there is none, or it needs more than a recipe can say.
    """
    classes = {str(key.value).lower(): cls for key, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    name = _SHORT.get(kind, kind) if isinstance(kind, str) else kind
    if name in NEEDS_MORE:
        raise RecipeError(
            f"adapter.kind: '{kind}' needs {NEEDS_MORE[name]}, which a recipe cannot give",
            hint="adapt the model in code, and give it to `toolkit.run(recipe, model=...)`",
        )
    if name not in classes:
        known = sorted({*classes, *_SHORT} - set(NEEDS_MORE))
        raise RecipeError(
            f"adapter.kind: no adapter named {show(kind)}",
            hint=did_you_mean(str(kind), known) or f"there are: {', '.join(known)}",
        )
    return classes[name]


def field_faults(cls: Any, values: Mapping[str, Any], quantization: Any = None) -> list[RecipeError]:
    """Every unknown key, and every value of the wrong type or out of range."""
    kinds = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    faults = [unknown_key(f"adapter.{key}", key, names) for key in values if key not in names]
    for key, value in values.items():
        if key == "init_lora_weights":
            faults += _init_faults(value)
        elif key in names:
            faults += _type_faults(key, value, kinds[key]) or _value_faults(
                key, value, getattr(cls, key, None)
            )
    if "layers_pattern" in values and "layers_to_transform" not in values:
        faults.append(
            RecipeError(
                "adapter.layers_pattern: needs layers_to_transform beside it",
                hint="add it, or leave layers_pattern out",
            )
        )
    return faults or start_faults(values, quantization)


def start_faults(values: Mapping[str, Any], quantization: Any = None) -> list[RecipeError]:
    """What of LoRA's fields, each right by itself, cannot be done here."""
    faults = []
    if values.get("init_lora_weights") == "loftq":
        faults += loftq.faults(values.get("loftq_config") or {}, quantization)
    core = values.get("megatron_core") or "megatron.core"
    if values.get("megatron_config") and not _is_installed(core):
        faults.append(
            RecipeError(
                f"adapter.megatron_config: for the parallel layers of Megatron, and {core} is not installed",
                hint="pip install megatron-core, or leave megatron_config out",
            )
        )
    return faults


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _type_faults(key: str, value: Any, kind: Any) -> list[RecipeError]:
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        return [wrong_value(f"adapter.{key}", error.errors()[0], value)]
    return []


def _value_faults(key: str, value: Any, default: Any) -> list[RecipeError]:
    """Numbers out of range, which a default never is, and text that is no regular expression where PEFT reads one."""
    where = f"adapter.{key}"
    if key.endswith("dropout") and not 0 <= value < 1:
        message = f"{where}: must be at least 0 and below 1, found {value}"
        return [RecipeError(message, hint="0.05 is usual, 0 drops nothing")]
    if key in _POSITIVE and value not in (None, default) and value < 1:
        return [RecipeError(f"{where}: must be at least 1, found {value}", hint="8 to 64 is usual")]
    if key in ("rank_pattern", "alpha_pattern") and value:
        wrong = [number for number in value.values() if type(number) is not int or number < 1]
        message = f"{where}: must be a whole number of at least 1, found "
        faults = [RecipeError(message + show(one), hint="for example {q_proj: 8}") for one in wrong]
        return faults + expression_faults(key, value)
    if key in ("modules_to_save", "layers_pattern"):
        return expression_faults(key, [value] if isinstance(value, str) else value)
    return expression_faults(key, [value]) if key in SELECTION and isinstance(value, str) else []


def _init_faults(value: Any) -> list[RecipeError]:
    """What is wrong with `init_lora_weights`."""
    where, known = "adapter.init_lora_weights", f"true, false, {', '.join(_STARTS)}"
    if value in _STARTS_FROM_DATA:
        return [
            RecipeError(f"{where}: '{value}' needs a pass over the data first", hint=f"use one of {known}")
        ]
    if isinstance(value, bool) or value in _STARTS or re.fullmatch(r"pissa_niter_\d+", str(value)):
        return []
    hint = did_you_mean(str(value), _STARTS) or f"one of {known}"
    return [RecipeError(f"{where}: there is no way to start named {show(value)}", hint)]


def as_peft_config(cls: Any, values: Mapping[str, Any]) -> peft.PeftConfig:
    """The config of the fields; `all-linear` and expressions go with `layers_to_transform`, which PEFT refuses.

    Raises:
        RecipeError: PEFT refuses a combination.
    """
    values = dict(values)
    selection = {key: values.pop(key) for key in SELECTION if key in values}
    try:
        config: peft.PeftConfig = cls(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"adapter: {error}", hint=f"see peft.{cls.__name__}") from error
    for key, value in selection.items():
        setattr(config, key, value)
    return config
