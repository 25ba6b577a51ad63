"""Which modules an adapter trains, named as in a recipe, and PEFT to train them."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import json
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS
from pydantic import TypeAdapter, ValidationError
from torch import nn
from transformers.pytorch_utils import Conv1D

from toolkit.discovery import did_you_mean
from toolkit.errors import ModelError, RecipeError
from toolkit.structure import plain, show, unknown_key

Modules = dict[str, nn.Module]
"""Modules by full name, in the model's order, without the model itself."""

ALL_LINEAR = "all-linear"
_KINDS = ("lora",)
_SELECTION = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_PLAIN_STARTS = (
    "true",
    "false",
    "gaussian",
    "olora",
    "orthogonal",
    "pissa",
    "pissa_niter_N",
    "mica",
    "loftq",
)
_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)


@dataclass(frozen=True)
class Match:
    """An entry of `target_modules`, and the full names of the modules it stands for, in the model's order."""

    entry: str
    names: tuple[str, ...]


class LoraConfig(peft.LoraConfig):
    """PEFT's, with globs in `target_modules` also where PEFT alone reads it, as in `model.add_adapter(config)`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        entries = self.target_modules
        if (
            self.layers_to_transform is None
            and isinstance(entries, set)
            and any("*" in entry for entry in entries)
        ):
            self.globs = sorted(entries)
            self.target_modules = "|".join(_glob(entry).pattern for entry in self.globs)


# ---- adapting ------------------------------------------------------------------------------------------


def adapt(model: nn.Module, adapter: Mapping[str, Any] | peft.PeftConfig) -> Any:
    """The model with an adapter, ready to train; what else trains is PEFT's decision (`bias`, `modules_to_save`).

    New weights are drawn from torch's global generator.

        >>> model = adapt(model, {"r": 16, "target_modules": ["decoder.layers.*.self_attn.q_proj"]})

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
        adapted: Any = peft.get_peft_model(model, config)  # type: ignore[arg-type]
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise RecipeError(f"adapter: {error}") from error
    # PEFT may have shortened the list to a set, whose order differs from process to process in what is saved.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    return adapted


def _check_task(model: nn.Module, config: peft.PeftConfig) -> None:
    reads = getattr(model, "main_input_name", "input_ids")
    if config.task_type and reads != "input_ids":
        raise RecipeError(
            f"adapter.task_type: with {config.task_type} PEFT passes input_ids to {type(model).__name__}, which reads {reads}",
            hint="leave task_type out",
        )


def configure(adapter: Mapping[str, Any]) -> peft.LoraConfig:
    """A recipe's `adapter` as PEFT's config, its fields checked; which modules it names is for `expand` to say.

    Raises:
        RecipeError: every unknown key and every value of the wrong type or out of range, together.
    """
    if not isinstance(adapter, Mapping):
        raise RecipeError(f"adapter: expected a mapping of settings, found {show(adapter)}")
    values = {key: value for key, value in plain(adapter, "adapter").items() if value is not None}
    kind = values.pop("kind", "lora")
    if kind not in _KINDS:
        raise RecipeError(
            f"adapter.kind: no adapter named {show(kind)} (there is: {', '.join(_KINDS)})",
            hint=did_you_mean(str(kind), _KINDS)
            or "for another of PEFT's, give its config to `toolkit.adapt`",
        )
    if faults := _field_faults(values):
        raise RecipeError.gather(faults)
    # PEFT refuses combinations that are fine once the names are full: it shall see them only then.
    selection = {key: values.pop(key) for key in _SELECTION if key in values}
    try:
        config = peft.LoraConfig(**values)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"adapter: {error}") from error
    for key, value in selection.items():
        setattr(config, key, value)
    return config


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are; a 4-bit weight counts as the weights packed into it."""
    counts = [(_count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def _count(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)
    return int(torch.Size(packed.shape).numel()) if hasattr(packed, "shape") else parameter.numel()


# ---- fields --------------------------------------------------------------------------------------------


def _field_faults(values: Mapping[str, Any]) -> list[RecipeError]:
    kinds = typing.get_type_hints(peft.LoraConfig)
    names = [field.name for field in dataclasses.fields(peft.LoraConfig)]
    faults = [unknown_key(f"adapter.{key}", key, names) for key in values if key not in names]
    for key, value in values.items():
        if key == "init_lora_weights":
            faults += _start_faults(value)
        elif key in names:
            faults += _type_faults(key, value, kinds[key]) or _range_faults(key, value)
    if "layers_pattern" in values and "layers_to_transform" not in values:
        faults.append(
            RecipeError("adapter.layers_pattern: there is no layers_to_transform for it to say where")
        )
    return faults


def _type_faults(key: str, value: Any, kind: Any) -> list[RecipeError]:
    try:
        TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        return [RecipeError(f"adapter.{key}: {message[0].lower()}{message[1:]}, found {show(value)}")]
    return []


def _range_faults(key: str, value: Any) -> list[RecipeError]:
    if key == "lora_dropout":
        return (
            []
            if 0 <= value < 1
            else [RecipeError(f"adapter.{key}: must be at least 0 and below 1, found {value}")]
        )
    given = (
        value
        if key in ("rank_pattern", "alpha_pattern")
        else {"": value}
        if key in ("r", "lora_alpha")
        else {}
    )
    return [
        RecipeError(f"adapter.{key}: must be a whole number of at least 1, found {show(number)}")
        for number in given.values()
        if isinstance(number, bool) or not isinstance(number, int) or number < 1
    ]


def _start_faults(value: Any) -> list[RecipeError]:
    """What is wrong with `init_lora_weights`."""
    where = "adapter.init_lora_weights"
    if value in ("eva", "corda", "lora_ga"):
        return [
            RecipeError(
                f"{where}: '{value}' needs a pass over the data first", hint=f"use {', '.join(_PLAIN_STARTS)}"
            )
        ]
    if value == "loftq" and not torch.accelerator.is_available():
        return [
            RecipeError(
                f"{where}: PEFT computes 'loftq' on a GPU, and there is none", hint="use 'pissa' or true"
            )
        ]
    if isinstance(value, bool) or value in _PLAIN_STARTS or re.fullmatch(r"pissa_niter_\d+", str(value)):
        return []
    return [
        RecipeError(
            f"{where}: no way to start is named {show(value)} (there are: {', '.join(_PLAIN_STARTS)})",
            hint=did_you_mean(str(value), _PLAIN_STARTS),
        )
    ]


# ---- names ---------------------------------------------------------------------------------------------


def match_modules(model: nn.Module, target_modules: str | Iterable[str]) -> list[Match]:
    """The modules that each entry stands for, of those that LoRA can adapt.

    Args:
        target_modules: a list of names, suffixes ('self_attn.q_proj') and globs ('layers.*.fc1', where `*` stays
            within one dotted part); or text, a regular expression for whole names; or 'all-linear', every linear
            layer but the output's.
    Raises:
        RecipeError: the text is no regular expression.
    """
    return _matches("target_modules", target_modules, model, _modules(model))


def expand(model: nn.Module, config: Any) -> Any:
    """A copy of a PEFT config whose `target_modules` are full names, so that it can only mean what was said.

    `layers_to_transform`, `layers_pattern` and `exclude_modules` are carried out and taken away: with a list of
    full names PEFT would ignore the layers, and with text it refuses them.

    Raises:
        RecipeError: every entry, layer and pattern that chooses nothing, together.
    """
    given = _targets(model, config)
    if not given:
        return config
    modules = _modules(model, getattr(config, "layer_replication", None))
    chosen, faults = _chosen("target_modules", given, model, modules)
    excluded, more = _chosen(
        "exclude_modules", getattr(config, "exclude_modules", None) or [], model, modules
    )
    saved = getattr(config, "modules_to_save", None) or []
    faults += [*more, *_unsaved(saved, model, modules)]
    names = [name for name in chosen if name not in excluded and not _within(name, saved)]
    names, more = _in_layers(names, config)
    faults += [*more, *(_idle_patterns(config, names) if names else [])]
    if faults:
        raise RecipeError.gather(faults)
    if not names:
        raise RecipeError("adapter: exclude_modules and modules_to_save leave no module to adapt")
    result = copy.copy(config)
    for key in {"globs", *_SELECTION} & set(vars(result)):
        setattr(result, key, None)
    result.target_modules = _exactly(names, modules)
    if parts := getattr(config, "feedforward_modules", None):  # IA3 wants them to be a subset, also as text
        result.feedforward_modules = list(_chosen("feedforward_modules", parts, model, modules)[0])
    return result


def _targets(model: nn.Module, config: Any) -> Any:
    """What the config names, or what PEFT usually adapts in such a model; nothing where a config has no modules."""
    given = getattr(config, "globs", None) or getattr(config, "target_modules", None)
    if given or getattr(config, "target_parameters", None) or not isinstance(config, peft.LoraConfig):
        return given
    usual = USUAL_TARGETS.get(getattr(getattr(model, "config", None), "model_type", ""))
    if given is None and usual:
        return usual
    parts = dict.fromkeys(name.rpartition(".")[2] for name in _adaptable(_modules(model)))
    known = [part for part in parts if not part.isdigit()]
    raise RecipeError(
        f"adapter.target_modules: say which modules of {type(model).__name__} to adapt",
        hint=f"'{ALL_LINEAR}', or a list with some of: {', '.join(known)}",
    )


def _modules(model: nn.Module, replication: Sequence[Sequence[int]] | None = None) -> Modules:
    """The model's modules as they will be named once PEFT has repeated its layers as `replication` says."""
    modules = {name: module for name, module in model.named_modules() if name}
    if not replication:
        return modules
    sources = [layer for start, end in replication for layer in range(start, end)]
    replicated: Modules = {}
    for name, module in modules.items():
        start, layer, end = re.fullmatch(r"(?:(.*?\.)(\d+)(?=\.|$))?(.*)", name).groups()  # type: ignore[union-attr]
        copies = [place for place, source in enumerate(sources) if str(source) == layer]
        replicated |= {f"{start}{place}{end}": module for place in copies} if layer else {name: module}
    return replicated


def _adaptable(modules: Modules) -> Modules:
    """Those that PEFT's LoRA knows; the classes of quantized layers are told by their names, as PEFT does."""
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, _LAYERS) or type(module).__name__.split("_")[0].endswith("Linear")
    }


def _matches(key: str, entries: Any, model: nn.Module, modules: Modules) -> list[Match]:
    known = _adaptable(modules)
    if not isinstance(entries, str):
        ordered = sorted(entries) if isinstance(entries, (set, frozenset)) else entries
        return [Match(entry, tuple(filter(_glob(entry).fullmatch, known))) for entry in ordered]
    if entries.lower() == ALL_LINEAR:
        linear = _linear(model)
        return [Match(entries, tuple(name for name, module in modules.items() if module in linear))]
    try:
        return [Match(entries, tuple(filter(re.compile(entries).fullmatch, known)))]
    except re.error as error:
        raise RecipeError(
            f"adapter.{key}: '{entries}' is no regular expression: {error}", hint=_AS_A_LIST
        ) from None


def _glob(entry: str) -> re.Pattern[str]:
    parts = ("[^.]+" if part == "*" else re.escape(part).replace(r"\*", "[^.]*") for part in entry.split("."))
    return re.compile(r"(?:.*\.)?" + r"\.".join(parts))


def _linear(model: nn.Module) -> set[nn.Module]:
    """PEFT's own choice for 'all-linear'."""
    chosen = _maybe_include_all_linear_layers(peft.LoraConfig(target_modules=ALL_LINEAR), model)
    return {model.get_submodule(name) for name in chosen.target_modules or ()}


def _chosen(
    key: str, entries: Any, model: nn.Module, modules: Modules
) -> tuple[dict[str, None], list[RecipeError]]:
    """The names that the entries stand for, in the model's order, and a fault for each that stands for none."""
    matches = _matches(key, entries, model, modules)
    found = {name for match in matches for name in match.names}
    faults = [
        _nothing(key, match.entry, isinstance(entries, str), model, modules)
        for match in matches
        if not match.names
    ]
    return {name: None for name in modules if name in found}, faults


def _layer(name: str, pattern: str) -> int | None:
    """The first number that follows a part of the name which `pattern` matches: PEFT's convention."""
    found = re.match(rf"(?:^|.*?\.)(?:{pattern})\.(\d+)\.", name)
    return int(found[1]) if found else None


def _in_layers(names: list[str], config: Any) -> tuple[list[str], list[RecipeError]]:
    """The names within `layers_to_transform`, and a fault for each layer that holds none of them."""
    wanted = getattr(config, "layers_to_transform", None)
    if wanted is None or wanted == [] or not names:
        return names, []
    wanted = [wanted] if isinstance(wanted, int) else wanted
    patterns = getattr(config, "layers_pattern", None) or r"[^.]*"
    pattern = patterns if isinstance(patterns, str) else "|".join(patterns)
    layers = {name: _layer(name, pattern) for name in names}
    there = sorted({layer for layer in layers.values() if layer is not None})
    if not there:
        lists = dict.fromkeys(re.findall(r"([^.]+)\.\d+\.", " ".join(names)))
        return [], [
            RecipeError(
                f"adapter.layers_pattern: {show(patterns)} numbers no chosen module",
                hint=f"what is numbered: {', '.join(lists) or 'nothing'}",
            )
        ]
    faults = [
        RecipeError(
            f"adapter.layers_to_transform: no chosen module is in layer {layer}",
            hint=f"there are {_span(there)}",
        )
        for layer in wanted
        if layer not in there
    ]
    return [name for name in names if layers[name] in wanted], faults


def _span(layers: list[int]) -> str:
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]} to {layers[-1]}" if whole else f"layers {', '.join(map(str, layers))}"


def _within(name: str, saved: Iterable[str]) -> bool:
    """Whether the module trains whole or lies in one that does: PEFT leaves those alone."""
    return any(re.match(rf"(^|.*\.){entry}($|\..*)", name) for entry in saved)


def _exactly(names: list[str], modules: Modules) -> list[str] | str:
    """The names as a list, unless PEFT would find further modules that end in one of them: then as an expression."""
    chosen = set(names)
    others = (name.split(".") for name in modules if name not in chosen)
    if any(".".join(parts[start:]) in chosen for parts in others for start in range(1, len(parts))):
        return "|".join(re.escape(name) for name in names)
    return names


# ---- faults --------------------------------------------------------------------------------------------

_AS_A_LIST = "text is a regular expression for whole names; names, suffixes and globs go in a list"


def _nothing(key: str, entry: str, is_text: bool, model: nn.Module, modules: Modules) -> RecipeError:
    """The fault of an entry that stands for no module that can be adapted."""
    pattern = re.compile(entry) if is_text else _glob(entry)
    known = _adaptable(modules)
    found = [name for name in modules if pattern.fullmatch(name)]
    if found:
        kinds = ", ".join(sorted({type(modules[name]).__name__ for name in found}))
        inside = [name for name in known if name.startswith(tuple(f"{name}." for name in found))]
        hint = f"name layers in them: {_some(map(_general, inside))}" if inside else None
        return RecipeError(
            f"adapter.{key}: '{entry}' matched only modules that LoRA cannot adapt ({kinds})", hint
        )
    message = f"adapter.{key}: '{entry}' matched no module of {type(model).__name__}"
    if is_text and any(_glob(entry).fullmatch(name) for name in known):
        return RecipeError(message, hint=f"{_AS_A_LIST}: [{entry}]")
    if entry.lower() == ALL_LINEAR:
        return RecipeError(message, hint=f"write it without a list: {ALL_LINEAR}")
    return RecipeError(message, hint=_names_hint(entry, known))


def _unsaved(saved: Sequence[str], model: nn.Module, modules: Modules) -> list[RecipeError]:
    missing = [entry for entry in saved if not any(f".{name}".endswith(f".{entry}") for name in modules)]
    return [
        RecipeError(
            f"adapter.modules_to_save: '{entry}' matched no module of {type(model).__name__}",
            hint=_names_hint(entry, modules),
        )
        for entry in missing
    ]


def _idle_patterns(config: Any, names: Sequence[str]) -> list[RecipeError]:
    """A fault for each rank or alpha that is set for modules which are not adapted."""
    return [
        RecipeError(
            f"adapter.{key}: '{pattern}' matched no adapted module",
            hint=f"adapted: {_some(map(_general, names))}",
        )
        for key in ("rank_pattern", "alpha_pattern")
        for pattern in getattr(config, key, None) or {}
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
    ]


def _general(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def _some(names: Iterable[str], most: int = 5) -> str:
    first = list(dict.fromkeys(names))
    return ", ".join(first[:most]) + (", …" if len(first) > most else "")


def _names_hint(entry: str, names: Iterable[str]) -> str:
    near = _nearest(entry, names)
    if near:
        return f"nearest names: {_some(near)}"
    parts = (name.rpartition(".")[2] for name in names)
    return f"there are: {_some((part for part in parts if not part.isdigit()), most=12)}"


def _nearest(entry: str, names: Iterable[str]) -> list[str]:
    """The names, numbers generalised, likest to `entry` in the last part and then in whole parts; none if none is."""
    wanted = _general(entry).split(".")

    def likeness(name: str) -> tuple[float, int, float]:
        parts = name.split(".")
        blocks = difflib.SequenceMatcher(None, wanted[:-1], parts[:-1]).get_matching_blocks()
        return (
            _ratio(wanted[-1], parts[-1]),
            sum(block.size for block in blocks),
            _ratio(".".join(wanted), name),
        )

    tails = {name: max(_tails(name), key=likeness) for name in dict.fromkeys(map(_general, names))}
    ranked = sorted(dict.fromkeys(tails.values()), key=likeness, reverse=True)
    return [
        name for name in ranked if likeness(name)[0] > 0.5 and likeness(name)[:2] == likeness(ranked[0])[:2]
    ]


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
