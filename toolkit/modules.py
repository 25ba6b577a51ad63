"""The modules that names, globs and regular expressions of a recipe stand for."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import peft
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL_TARGETS
from peft.utils.constants import SEQ_CLS_HEAD_NAMES
from torch import nn
from transformers.pytorch_utils import Conv1D

from toolkit.errors import RecipeError
from toolkit.notices import say_once
from toolkit.structure import show

Modules = dict[str, nn.Module]
"""Modules by full name, in the model's order, without the model itself."""

ALL_LINEAR = "all-linear"
SELECTION = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
_LAYERS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention, Conv1D)
_AS_A_LIST = "text is a regular expression for whole names; names, suffixes and globs go in a list"


@dataclass(frozen=True)
class Match:
    """An entry of `target_modules`, and the full names of the modules it stands for, in the model's order."""

    entry: str
    names: tuple[str, ...]


def match_modules(model: nn.Module, target_modules: str | Iterable[str], config: Any = None) -> list[Match]:
    """The modules that each entry stands for, of those that LoRA, or the config's kind of adapter, can adapt.

    Args:
        target_modules: a list of names, suffixes ('self_attn.q_proj') and globs ('layers.*.fc1', where `*` stays
            within one dotted part); or text, a regular expression for whole names; or 'all-linear', every linear
            layer but the output's.
    Raises:
        RecipeError: the text is no regular expression.
    """
    return _Choice(model, config).matches("target_modules", target_modules)


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
    choice = _Choice(model, config)
    saved = getattr(config, "modules_to_save", None) or []
    chosen, faults = choice.names("target_modules", given)
    excluded, more = choice.names("exclude_modules", getattr(config, "exclude_modules", None) or [])
    names = [name for name in chosen if name not in excluded and not _within(name, saved)]
    names, idle_layers = _in_layers(names, config)
    faults += [*more, *choice.unsaved(saved), *idle_layers, *(_idle_patterns(config, names) if names else [])]
    if not names and not faults:
        faults = [
            RecipeError(
                "adapter: exclude_modules and modules_to_save leave no module to adapt",
                hint="name fewer modules there",
            )
        ]
    if faults:
        raise RecipeError.gather(faults)
    result = copy.copy(config)
    for key in {"globs", *SELECTION} & set(vars(result)):
        setattr(result, key, None)
    result.target_modules = _exactly(names, choice.modules)
    if parts := getattr(config, "feedforward_modules", None):  # IA3 wants a subset, also as text
        result.feedforward_modules = choice.names("feedforward_modules", parts)[0]
    return result


def _targets(model: nn.Module, config: Any) -> Any:
    """What the config names, or what PEFT usually adapts in such a model; nothing where it has no modules."""
    given = getattr(config, "globs", None) or getattr(config, "target_modules", None)
    if given or getattr(config, "target_parameters", None) or not isinstance(config, peft.LoraConfig):
        return given
    usual = USUAL_TARGETS.get(getattr(getattr(model, "config", None), "model_type", ""))
    if given is None and usual:
        return usual
    raise RecipeError(
        f"adapter.target_modules: say which modules of {type(model).__name__} to adapt",
        hint=f"{ALL_LINEAR}, or a list with some of: {last_parts(_Choice(model).known)}",
    )


class _Choice:
    """The modules of a model, by the names they have once PEFT has repeated its layers, to choose from."""

    def __init__(self, model: nn.Module, config: Any = None) -> None:
        self.model = model
        self.owner = type(model).__name__
        self.modules = _replicated(
            {name: module for name, module in model.named_modules() if name},
            getattr(config, "layer_replication", None),
        )
        adaptable = _is_norm if isinstance(config, peft.LNTuningConfig) else _adaptable
        self.known = {name: module for name, module in self.modules.items() if adaptable(module)}

    def matches(self, key: str, entries: Any) -> list[Match]:
        if not isinstance(entries, str):
            ordered = sorted(entries) if isinstance(entries, set) else entries
            return [Match(entry, tuple(filter(glob(entry).fullmatch, self.known))) for entry in ordered]
        if entries.lower() == ALL_LINEAR:
            linear = _linear(self.model)
            return [Match(entries, tuple(name for name in self.known if self.known[name] in linear))]
        if faults := expression_faults(key, [entries]):
            raise RecipeError.gather(faults)
        return [Match(entries, tuple(filter(re.compile(entries).fullmatch, self.known)))]

    def names(self, key: str, entries: Any) -> tuple[list[str], list[RecipeError]]:
        """What the entries stand for, in the model's order, and a fault for each that stands for nothing."""
        matches = self.matches(key, entries)
        found = {name for match in matches for name in match.names}
        empty = [match.entry for match in matches if not match.names]
        is_text = isinstance(entries, str)
        return [name for name in self.known if name in found], [
            self._nothing(key, one, is_text) for one in empty
        ]

    def _nothing(self, key: str, entry: str, is_text: bool) -> RecipeError:
        pattern = re.compile(entry) if is_text else glob(entry)
        message = f"adapter.{key}: '{entry}' matched no module of {self.owner}"
        if found := [name for name in self.modules if pattern.fullmatch(name)]:
            return self._not_adaptable(key, entry, found)
        if is_text and any(glob(entry).fullmatch(name) for name in self.known):
            return RecipeError(message, hint=f"{_AS_A_LIST}: [{entry}]")
        if entry.lower() == ALL_LINEAR:
            return RecipeError(message, hint=f"write it without a list: {ALL_LINEAR}")
        return RecipeError(message, hint=_names_hint(entry, self.known))

    def _not_adaptable(self, key: str, entry: str, found: list[str]) -> RecipeError:
        kinds = ", ".join(sorted({type(self.modules[name]).__name__ for name in found}))
        inside = [name for name in self.known if name.startswith(tuple(f"{name}." for name in found))]
        hint = (
            f"name layers in them: {some(map(_general, inside))}"
            if inside
            else f"name some of: {last_parts(self.known)}"
        )
        return RecipeError(f"adapter.{key}: '{entry}' matched only what cannot be adapted ({kinds})", hint)

    def unsaved(self, saved: Sequence[str]) -> list[RecipeError]:
        """A fault for each entry of `modules_to_save` that is not there."""
        missing = [one for one in saved if not any(f".{name}".endswith(f".{one}") for name in self.modules)]
        for head in [
            one for one in missing if one in SEQ_CLS_HEAD_NAMES
        ]:  # PEFT tries each on any classifier
            say_once(f"adapter.modules_to_save: {self.owner} has no '{head}'")
            missing.remove(head)
        message = "adapter.modules_to_save: '{}' matched no module of " + self.owner
        return [RecipeError(message.format(one), hint=_names_hint(one, self.modules)) for one in missing]


def _replicated(modules: Modules, replication: Sequence[Sequence[int]] | None) -> Modules:
    """The modules as they are named after PEFT's `layer_replication`: [[0, 2], [1, 3]] makes layers 0, 1, 1, 2."""
    if not replication:
        return modules
    sources = [layer for start, end in replication for layer in range(start, end)]
    replicated: Modules = {}
    for name, module in modules.items():
        start, layer, end = re.fullmatch(r"(?:(.*?\.)(\d+)(?=\.|$))?(.*)", name).groups()  # type: ignore[union-attr]
        places = [place for place, source in enumerate(sources) if str(source) == layer]
        replicated |= {f"{start}{place}{end}": module for place in places} if layer else {name: module}
    return replicated


def _adaptable(module: nn.Module) -> bool:
    """Whether PEFT's LoRA knows the layer; quantized ones are told by the names of their classes, as PEFT does."""
    return isinstance(module, _LAYERS) or type(module).__name__.split("_")[0].endswith("Linear")


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def glob(entry: str) -> re.Pattern[str]:
    parts = ("[^.]+" if part == "*" else re.escape(part).replace(r"\*", "[^.]*") for part in entry.split("."))
    return re.compile(r"(?:.*\.)?" + r"\.".join(parts))


def _linear(model: nn.Module) -> set[nn.Module]:
    """PEFT's own choice for 'all-linear'."""
    chosen = _maybe_include_all_linear_layers(peft.LoraConfig(target_modules=ALL_LINEAR), model)
    return {model.get_submodule(name) for name in chosen.target_modules or ()}


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
        lists = ", ".join(dict.fromkeys(re.findall(r"([^.]+)\.\d+\.", "\n".join(names)))) or "nothing"
        message = f"adapter.layers_pattern: {show(patterns)} numbers no chosen module"
        return [], [RecipeError(message, hint=f"what is numbered: {lists}")]
    message, hint = (
        "adapter.layers_to_transform: no chosen module is in layer {}",
        f"there are {_span(there)}",
    )
    faults = [RecipeError(message.format(layer), hint) for layer in wanted if layer not in there]
    return [name for name in names if layers[name] in wanted], faults


def within_layers(names: list[str], config: Any) -> set[str]:
    """Those of the names that are within the config's `layers_to_transform`.

    Raises:
        RecipeError: a layer holds none.
    """
    chosen, faults = _in_layers(names, config)
    if faults:
        raise RecipeError.gather(faults)
    return set(chosen)


def _span(layers: list[int]) -> str:
    whole = layers == list(range(layers[0], layers[-1] + 1))
    return f"layers {layers[0]} to {layers[-1]}" if whole else f"layers {', '.join(map(str, layers))}"


def _within(name: str, saved: Iterable[str]) -> bool:
    """Whether the module trains whole or lies in one that does: PEFT leaves those alone."""
    return any(re.match(rf"(^|.*\.){entry}($|\..*)", name) for entry in saved)


def _idle_patterns(config: Any, names: Sequence[str]) -> list[RecipeError]:
    """A fault for each rank or alpha that is set for modules which are not adapted."""
    hint = f"adapted: {some(map(_general, names))}"
    return [
        RecipeError(f"adapter.{key}: '{pattern}' matched no adapted module", hint)
        for key in ("rank_pattern", "alpha_pattern")
        for pattern in getattr(config, key, None) or {}
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names)
    ]


def _exactly(names: list[str], modules: Modules) -> list[str] | str:
    """The names as a list; as an expression where PEFT would find others too, which end in one of them."""
    chosen = set(names)
    others = (name.split(".") for name in modules if name not in chosen)
    if any(".".join(parts[start:]) in chosen for parts in others for start in range(1, len(parts))):
        return "|".join(re.escape(name) for name in names)
    return names


# ---- hints ---------------------------------------------------------------------------------------------


def _names_hint(entry: str, names: Iterable[str]) -> str:
    near = _nearest(entry, names)
    return f"nearest names: {some(near)}" if near else f"there are: {last_parts(names)}"


def _nearest(entry: str, names: Iterable[str]) -> list[str]:
    """The names, numbers made `*`, most similar to `entry` in the last part, then in whole parts; if any is."""
    wanted = _general(entry).split(".")

    def likeness(name: str) -> tuple[float, int, float]:
        parts = name.split(".")
        blocks = difflib.SequenceMatcher(None, wanted[:-1], parts[:-1]).get_matching_blocks()
        return (
            _ratio(wanted[-1], parts[-1]),
            sum(block.size for block in blocks),
            _ratio(_general(entry), name),
        )

    generals = dict.fromkeys(map(_general, names))
    tails = dict.fromkeys(max(_tails(name), key=likeness) for name in generals)
    ranked = sorted(tails, key=likeness, reverse=True)
    best = likeness(ranked[0])[:2] if ranked else (0.0, 0)
    return [name for name in ranked if likeness(name)[:2] == best and best[0] > 0.5]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _general(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "*", name)


def last_parts(names: Iterable[str]) -> str:
    parts = (name.rpartition(".")[2] for name in names)
    return some((part for part in parts if not part.isdigit()), most=12)


def some(names: Iterable[str], most: int = 5) -> str:
    first = list(dict.fromkeys(names))
    return ", ".join(first[:most]) + (", …" if len(first) > most else "")


def expression_faults(key: str, texts: Iterable[str]) -> list[RecipeError]:
    faults = []
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            hint = _AS_A_LIST if key in SELECTION[:2] else None
            faults.append(RecipeError(f"adapter.{key}: '{text}' is no regular expression: {error}", hint))
    return faults
