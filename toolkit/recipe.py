"""Recipe: the typed description of one run, the same in Python, in YAML and on the command line."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from toolkit import discovery
from toolkit.errors import RecipeError, ToolkitError
from toolkit.structure import build, plain, show, unknown_key
from toolkit.yaml12 import read_yaml, write_yaml

S = TypeVar("S")
SAMPLE = "sample"


@dataclass(frozen=True)
class ModelSpec:
    """Which model to start from. `quantization`: none, 4bit, 8bit, or fields of BitsAndBytesConfig."""

    name: str = SAMPLE
    revision: str | None = None
    dtype: str = "auto"
    quantization: Literal["none", "4bit", "8bit"] | dict[str, Any] = "none"
    from_config: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class DataSpec:
    """Which rows to use. `columns` maps a plugin's name of a column to the data's; fractions are of the rows."""

    source: str = SAMPLE
    config: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    streaming: bool = False
    limit: int | None = None
    validation_fraction: float = 0.1
    on_error: Literal["quarantine", "stop"] = "quarantine"
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class EvalSpec:
    """What to measure: whether before training too, on how many rows at most, with which further metrics."""

    before: bool = True
    max_samples: int | None = None
    metrics: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CacheSpec:
    """Where results that can be reused may be kept, and how much of them."""

    enabled: bool = True
    max_gb: float = 10.0
    dir: str | None = None


_SPECS = {"model": ModelSpec, "data": DataSpec, "eval": EvalSpec, "cache": CacheSpec}
_SHORTHAND = {"model": "name", "data": "source"}
_KEYS = ("name", "plugins", "model", "data", "adapter", "train", "eval", "cache", "sample")


@dataclass(frozen=True, init=False)
class Recipe:
    """One run: its plugins, model, data, adapter, training arguments, and the plugins' own settings.

    Recipes are values: compare them, `override` them, `dump` and `load` them. Only the structure is checked here.

        >>> recipe = Recipe(name="mine", plugins=["whisper"], train={"learning_rate": 1e-4})
        >>> recipe.override(model="openai/whisper-small", train={"num_train_epochs": 3}).train
        {'learning_rate': 0.0001, 'num_train_epochs': 3}
    """

    name: str
    plugins: tuple[str, ...]
    model: ModelSpec
    data: DataSpec
    adapter: Mapping[str, Any] | None
    train: Mapping[str, Any]
    eval: EvalSpec
    cache: CacheSpec
    sections: Mapping[str, Mapping[str, Any]]
    sample: Mapping[str, Any] | None
    _settings: Mapping[type, Any] = field(compare=False, repr=False)

    def __init__(self, name: str, **values: Any) -> None:
        """`values`: the keys of a recipe file; `model` and `data` may be just a name.

        Raises:
            RecipeError: every fault of the structure, together.
        """
        given = {
            key: plain(value, key) for key, value in {"name": name, **values}.items() if value is not None
        }
        faults: list[RecipeError] = []
        for key, kind in _SPECS.items():
            value = given.get(key, {})
            if key in _SHORTHAND and isinstance(value, str):
                value = {_SHORTHAND[key]: value}
            spec, found = build(kind, _without_none(value), key)
            object.__setattr__(self, key, spec)
            faults += found
        faults += self._set_plain_parts(given)
        object.__setattr__(self, "_settings", {})
        if faults:
            raise RecipeError.gather(faults)

    def _set_plain_parts(self, given: Mapping[str, Any]) -> list[RecipeError]:
        """Everything that is no spec: names, mappings passed on as they are, and the plugins' sections."""
        faults = []
        plugins = given.get("plugins", [])
        if not isinstance(plugins, list) or not all(isinstance(one, str) for one in plugins):
            faults.append(RecipeError(f"plugins: expected a list of names, found {show(plugins)}"))
            plugins = []
        elif len(set(plugins)) < len(plugins):
            faults.append(RecipeError(f"plugins: a name stands twice in {show(plugins)}"))
        if not isinstance(given["name"], str) or not given["name"]:
            faults.append(RecipeError(f"name: expected text, found {show(given['name'])}"))
        sections = {key: value for key, value in given.items() if key not in _KEYS}
        for key in [key for key in sections if key not in plugins]:
            faults.append(unknown_key("recipe", key, [*_KEYS, *plugins]))
        mappings = {key: given[key] for key in ("adapter", "train", "sample") if key in given}
        for key, value in {**mappings, **sections}.items():
            if not isinstance(value, Mapping):
                faults.append(RecipeError(f"{key}: expected a mapping of settings, found {show(value)}"))
        object.__setattr__(self, "name", given["name"])
        object.__setattr__(self, "plugins", tuple(plugins))
        object.__setattr__(self, "sections", {key: _drop_none(value) for key, value in sections.items()})
        for key in ("adapter", "train", "sample"):
            object.__setattr__(self, key, _drop_none(given.get(key, {} if key == "train" else None)))
        return faults

    # ---- files -----------------------------------------------------------------------------------------

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """The recipe that a YAML file holds, or the installed task of that name.

        Raises:
            RecipeError: the file is missing, is no YAML, or holds no recipe.
            PluginError: no such task, or its package cannot be loaded.
        """
        path = Path(source)
        if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
            return cls._from_file(path)
        task = discovery.find("task", str(source))
        loaded = task.load()
        recipe = loaded if isinstance(loaded, cls) else getattr(loaded, "recipe", None)
        if not isinstance(recipe, cls):
            raise RecipeError(
                f"{task.describe()}: {task.entry.value} holds no `recipe`", hint="name a toolkit.Recipe"
            )
        return recipe

    @classmethod
    def _from_file(cls, path: Path, seen: tuple[Path, ...] = ()) -> Self:
        if path.resolve() in seen:
            raise RecipeError(f"{path}: `extends` comes back to this file")
        try:
            values = read_yaml(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not text in UTF-8"
            raise RecipeError(
                f"{path}: cannot be read: {reason}", hint="give a recipe file, or a task's name"
            ) from None
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise RecipeError(
                f"{path}: holds {show(values)}, not a recipe", hint="write YAML: `extends: whisper-asr`"
            )
        base = values.pop("extends", None)
        if base is None:
            return cls(**{"name": path.stem, **values})
        if not isinstance(base, str):
            raise RecipeError(f"{path}: extends: expected a task or a file, found {show(base)}")
        if base.endswith((".yaml", ".yml")):
            return cls._from_file(path.parent / base, (*seen, path.resolve())).override(**values)
        return cls.load(base).override(**values)

    def dump(self, path: str | Path) -> None:
        """Write the recipe as YAML that `load` reads back equal."""
        Path(path).write_text(write_yaml(self.as_dict()), encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, in the order of a recipe file."""
        values: dict[str, Any] = {"name": self.name, "plugins": list(self.plugins)}
        for key in ("model", "data"):
            values[key] = dataclasses.asdict(getattr(self, key))
        values |= {"adapter": plain(self.adapter, "adapter"), "train": plain(self.train, "train")}
        for key in ("eval", "cache"):
            values[key] = dataclasses.asdict(getattr(self, key))
        values |= {key: plain(section, key) for key, section in self.sections.items()}
        return values | ({"sample": plain(self.sample, "sample")} if self.sample is not None else {})

    # ---- changes ---------------------------------------------------------------------------------------

    def override(self, **changes: Any) -> Self:
        """A recipe with `changes` merged in, level by level; None takes a setting back to its default.

        What is said here counts more than the sample's overlay.
        """
        changes = {key: plain(value, key) for key, value in changes.items()}
        for key, name in _SHORTHAND.items():
            if isinstance(changes.get(key), str):
                changes[key] = {name: changes[key]}
        values = merged(self.as_dict(), changes)
        if self.sample is not None and "sample" not in changes:
            kept = {key: value for key, value in changes.items() if key not in _SHORTHAND}
            values["sample"] = _without(self.sample, kept)
        return type(self)(**values).with_settings(self._settings)

    def resolved(self) -> Self:
        """The recipe with the sample's overlay laid over it and local paths made absolute: it repeats the run."""
        values = self.as_dict()
        overlay = values.pop("sample", None)
        if overlay is None and SAMPLE in (self.model.name, self.data.source):
            raise RecipeError(
                f"recipe '{self.name}' ships no sample",
                hint="name a model and data: --model NAME --data FOLDER",
            )
        if overlay is not None:
            places = {key: overlay.pop(key, None) for key in _SHORTHAND}
            if self.model.name == SAMPLE:
                values = merged(values, overlay)
                values["model"]["name"] = places["model"]
            if self.data.source == SAMPLE:
                values["data"]["source"] = places["data"]
        values["train"].pop("output_dir", None)
        for key, name in _SHORTHAND.items():
            if Path(values[key][name]).expanduser().exists():
                values[key][name] = str(Path(values[key][name]).expanduser().absolute())
        return type(self)(**values).with_settings(self._settings)

    def validate(self) -> None:
        """Check `train` and `adapter` against the real classes, which are slow to import.

        Raises:
            RecipeError: unknown keys and values of the wrong type, all together.
        """
        from toolkit.adapters import configure
        from toolkit.arguments import argument_faults

        faults: list[ToolkitError] = [*argument_faults(self.train)]
        if self.adapter is not None and self.model.from_config:
            faults.append(
                RecipeError(
                    "adapter: with model.from_config the base is random, and only the adapter would be saved",
                    hint="train everything: --set adapter=null",
                )
            )
        try:
            if self.adapter is not None:
                configure(self.adapter)
        except RecipeError as error:
            faults += error.all
        if faults:
            raise RecipeError.gather(faults)

    def without_secrets(self) -> Self:
        """The recipe as it may be written down and shared: less tokens."""
        return self.override(train={key: None for key in self.train if key.endswith("token")})

    # ---- settings of plugins ---------------------------------------------------------------------------

    def settings(self, kind: type[S]) -> S:
        """The section of the plugin whose `toolkit_settings` answers `kind`, as an instance of it."""
        try:
            return self._settings[kind]  # type: ignore[no-any-return]
        except KeyError:
            raise RecipeError(
                f"{kind.__name__} is the settings class of no loaded plugin (plugins: {', '.join(self.plugins)})",
                hint="the plugin's toolkit_settings() must return the class",
            ) from None

    def with_settings(self, settings: Mapping[type, Any]) -> Self:
        """This recipe, whose `settings` answers the instances given by class; done as its plugins are loaded."""
        bound = copy.copy(self)
        object.__setattr__(bound, "_settings", dict(settings))
        return bound


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, level by level; None removes.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": None, "d": 3}})
    {'a': {'c': 2, 'd': 3}}
    """
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = result.get(key)
            result[key] = merged(below if isinstance(below, Mapping) else {}, value)
        else:
            result[key] = value
    return result


def _without(overlay: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`overlay` less every setting that `changes` speaks of."""
    result = dict(overlay)
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = _without(result[key], value)
        else:
            result.pop(key, None)
    return result


def _without_none(values: Any) -> Any:
    return (
        {key: value for key, value in values.items() if value is not None}
        if isinstance(values, Mapping)
        else values
    )


def _drop_none(values: Any) -> Any:
    """A mapping less its None values, at every level: they mean the default."""
    if not isinstance(values, Mapping):
        return values
    return {key: _drop_none(value) for key, value in values.items() if value is not None}
