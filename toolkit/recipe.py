"""Recipe: the typed description of one run, the same in Python, in YAML and on the command line."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from toolkit import discovery
from toolkit.discovery import bare
from toolkit.errors import RecipeError, ToolkitError, did_you_mean
from toolkit.notices import without_credentials
from toolkit.spellings import modern
from toolkit.structure import build, is_secret, no_mapping, plain, show, unknown_key
from toolkit.yaml12 import read_yaml, write_yaml

S = TypeVar("S")
SAMPLE = "sample"


@dataclass(frozen=True)
class ModelSpec:
    """Which model to start from. `quantization`: none, 4bit, 8bit, or fields of BitsAndBytesConfig.

    `use_safetensors`: false takes a pickle where there is nothing else; of it no more than weights is read.
    """

    name: str = SAMPLE
    revision: str | None = None
    dtype: str = "auto"
    quantization: Literal["none", "4bit", "8bit"] | dict[str, Any] = "none"
    from_config: bool = False
    trust_remote_code: bool = False
    use_safetensors: bool = True


@dataclass(frozen=True)
class DataSpec:
    """Which rows to use. `columns` maps a plugin's name of a column to the data's; fractions are of the rows.

    `root`: a folder beside the data's own that rows may name files in.
    """

    source: str = SAMPLE
    config: str | None = None
    root: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    streaming: bool = False
    limit: int | None = None
    validation_fraction: float = 0.1
    on_error: Literal["quarantine", "stop"] = "quarantine"
    max_bad_fraction: float = 0.01


@dataclass(frozen=True)
class EvalSpec:
    """What to measure: whether before training too, on how many rows at most, with which further metrics.

    `metrics`: of the library `evaluate`, by path, or where `model.trust_remote_code` allows it by name on the hub.
    `early_stopping_patience`: training ends after so many evaluations in a row that were no better than the best
    one, by `train.metric_for_best_model` (`loss` if it says nothing), and the best weights are kept.
    `test`: false leaves the test rows alone, so that before and after are measured on validation.
    """

    before: bool = True
    test: bool = True
    max_samples: int | None = None
    metrics: list[str] = field(default_factory=list)
    early_stopping_patience: int | None = None


@dataclass(frozen=True)
class CacheSpec:
    """Where results that can be reused may be kept, and how much of them."""

    enabled: bool = True
    max_gb: float = 10.0
    dir: str | None = None


_SPECS = {"model": ModelSpec, "data": DataSpec, "eval": EvalSpec, "cache": CacheSpec}
_SHORTHAND = {"model": "name", "data": "source"}
_OF_ONE = {"model": "revision", "data": "config"}
_KEYS = ("name", "plugins", "model", "data", "adapter", "train", "eval", "cache", "sample")
_SAMPLE_KEYS = ("model", "data", "adapter", "train", "eval", "cache")


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

    def __init__(self, /, name: str, **values: Any) -> None:
        """`values`: the keys of a recipe file; `model` and `data` may be just a name.

        Raises:
            RecipeError: every fault of the structure, together.
        """
        given = {
            key: plain(value, key) for key, value in {"name": name, **values}.items() if value is not None
        }
        faults = _modernise(given, "") + _modernise(given.get("sample"), "sample.")
        for key, kind in _SPECS.items():
            value = given.get(key, {})
            if key in _SHORTHAND and isinstance(value, str):
                value = {_SHORTHAND[key]: value}
            spec, found = build(kind, _without_none(value), key)
            object.__setattr__(self, key, spec)
            faults += found
        faults += [
            RecipeError(f"{key}.{name}: is empty", hint="name a folder, or one on the hub")
            for key, name in _SHORTHAND.items()
            if getattr(getattr(self, key), name, None) == ""
        ]
        faults += self._set_plain_parts(given)
        object.__setattr__(self, "_settings", {})
        if faults:
            raise RecipeError.gather(faults)

    def _set_plain_parts(self, given: Mapping[str, Any]) -> list[RecipeError]:
        """Everything that is no spec: names, mappings passed on as they are, and the plugins' sections."""
        name, plugins = given.get("name"), given.get("plugins", [])
        plugin_faults = _plugin_faults(plugins)
        plugins = [one for one in plugins if isinstance(one, str)] if isinstance(plugins, list) else []
        sections = [key for key in given if plugin_faults and _may_be_a_section(key)]
        faults = [
            *_name_faults(name),
            *plugin_faults,
            *_key_faults(given, [*_KEYS, *map(bare, plugins), *sections], "recipe"),
        ]
        if isinstance(sample := given.get("sample"), Mapping):
            faults += _sample_faults(_drop_none(sample), [bare(one) for one in plugins])
        own = {key: _drop_none(value) for key, value in given.items() if key not in _KEYS}
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "plugins", tuple(plugins))
        object.__setattr__(self, "sections", own)
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
        if _names_a_file(source):
            return cls._from_file(Path(source))
        task = discovery.find("task", str(source))
        loaded = task.load()
        recipe = loaded if isinstance(loaded, cls) else getattr(loaded, "recipe", None)
        if not isinstance(recipe, cls):
            raise RecipeError(
                f"{task.describe()}: {task.entry.value} holds no `recipe`", hint="name a toolkit.Recipe"
            )
        return recipe

    @classmethod
    def load_what_is_right(cls, source: str | Path) -> tuple[Self, list[ToolkitError]]:
        """What `load` gives, or where it would raise over settings, the recipe without these, and their faults.

        Raises:
            RecipeError: the file is missing, is no YAML, or extends what cannot be loaded.
            PluginError: no such task, or its package cannot be loaded.
        """
        if not _names_a_file(source):
            return cls.load(source), []
        path = Path(source)
        base, values = cls._read(path, ())
        recipe = cls(path.stem) if base is None else base
        faults: list[ToolkitError] = []
        for change in _one_by_one(values):
            try:
                recipe = recipe.override(**change)
            except RecipeError as error:
                faults += error.all
        return (recipe, faults) if faults else (cls.load(path), [])

    @classmethod
    def _from_file(cls, path: Path, seen: tuple[Path, ...] = ()) -> Self:
        base, values = cls._read(path, seen)
        return cls(**{"name": path.stem, **values}) if base is None else base.override(**values)

    @classmethod
    def _read(cls, path: Path, seen: tuple[Path, ...]) -> tuple[Self | None, dict[str, Any]]:
        """The recipe that a file extends, if it does, and what it says itself."""
        if path.resolve() in seen:
            raise RecipeError(
                f"{path}: `extends` comes back to this file",
                hint="extend a task, or a file that does not extend this one",
            )
        try:
            if path.exists() and not path.is_file() and not path.is_dir():
                raise RecipeError(
                    f"{path}: is no file but a pipe or a device", hint="give a recipe file, or a task's name"
                )
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
            return None, values
        if not isinstance(base, str):
            raise RecipeError(
                f"{path}: extends: expected a task or a file, found {show(base)}",
                hint="for example `extends: whisper-asr`",
            )
        if base.lower().endswith((".yaml", ".yml")):
            return cls._from_file(path.parent / base, (*seen, path.resolve())), values
        return cls.load(base), values

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

    def override(self, /, **changes: Any) -> Self:
        """A recipe with `changes` merged in, level by level; None takes a setting back to its default.

        What is said here counts more than the sample's overlay. Text for `model` or `data` names another one, which
        has no `revision` or `config` yet; the mapping of `columns` stays. Another `kind` of adapter has none of the
        settings of the one before.
        """
        changes = {key: self._spelt_out(key, plain(value, key)) for key, value in changes.items()}
        if faults := _modernise(changes, ""):
            raise RecipeError.gather(faults)
        before, sample = self.as_dict(), self.sample
        if self._names_another_kind(changes.get("adapter")):
            before["adapter"] = None
            sample = None if sample is None else merged(sample, {"adapter": None})
        values = merged(before, changes)
        if sample is not None and "sample" not in changes:
            kept = {key: value for key, value in changes.items() if key not in _SHORTHAND}
            values["sample"] = _without(sample, kept)
        return self._remade({"name": None, **values})

    def _names_another_kind(self, adapter: Any) -> bool:
        if not isinstance(adapter, Mapping) or not adapter.get("kind"):
            return False
        return bool(adapter["kind"] != (self.adapter or {}).get("kind", "lora"))

    def _spelt_out(self, key: str, value: Any) -> Any:
        """A change whose shorthand, where it is one, stands for the settings it changes."""
        if key not in _SHORTHAND or not isinstance(value, str):
            return value
        name = _SHORTHAND[key]
        is_another = value != getattr(getattr(self, key), name)
        return {name: value, **({_OF_ONE[key]: None} if is_another else {})}

    def resolved(self) -> Self:
        """The recipe with the sample's overlay laid over it and local paths made absolute: it repeats the run.

        Raises:
            RecipeError: the recipe names the sample and ships none, or a path cannot be one.
        """
        values = self.as_dict()
        overlay = values.pop("sample", {})
        places = {key: overlay.pop(key, None) for key in _SHORTHAND}
        wanted = [key for key, name in _SHORTHAND.items() if values[key][name] == SAMPLE]
        if missing := [key for key in wanted if places[key] is None]:
            raise RecipeError(
                f"recipe '{self.name}' ships no sample {' and '.join(missing)}",
                hint="name a model and data: --model NAME --data FOLDER",
            )
        if "model" in wanted:
            values = merged(values, overlay)
        for key, name in _SHORTHAND.items():
            place = places[key] if key in wanted else values[key][name]
            values[key][name] = _absolute(place, f"{key}.{name}")
        if values["data"]["root"] is not None:
            values["data"]["root"] = _absolute(values["data"]["root"], "data.root")
        if values["cache"]["dir"] is not None:
            values["cache"]["dir"] = _absolute(values["cache"]["dir"], "cache.dir", to_be_made=True)
        values["train"].pop("output_dir", None)
        values["eval"]["metrics"] = [_absolute(one, "eval.metrics") for one in values["eval"]["metrics"]]
        return self._remade(values)

    def _remade(self, values: Mapping[str, Any]) -> Self:
        """The recipe of `values`; settings stay bound while what they were parsed from is the same."""
        made = type(self)(**values)
        same = (made.plugins, made.sections) == (self.plugins, self.sections)
        return made.with_settings(self._settings if same else {})

    def validate(self, *, own_adapter: bool = False) -> None:
        """Check all values. `train`, `adapter` and `eval.metrics` need the real classes, which are slow to import.

        Args:
            own_adapter: a plugin makes the adapter, and knows what its settings are.
        Raises:
            RecipeError: unknown keys, values of the wrong type or out of range, all together.
        """
        from toolkit.adapters import configure
        from toolkit.arguments import argument_faults
        from toolkit.metrics import named_metrics

        faults: list[ToolkitError] = [*self._value_faults(), *argument_faults(self.train)]
        if self.adapter is not None and self.model.from_config:
            faults.append(
                RecipeError(
                    "adapter: with model.from_config the base is random, and only the adapter would be saved",
                    hint="train everything: --set adapter=null",
                )
            )
        try:
            named_metrics(self.eval.metrics, self.model.trust_remote_code)
        except RecipeError as error:
            faults += error.all
        try:
            if self.adapter is not None and not own_adapter:
                configure(self.adapter, self.model.quantization)
        except RecipeError as error:
            faults += error.all
        if faults:
            raise RecipeError.gather(faults)

    def _value_faults(self) -> list[RecipeError]:
        """Values of the core's own settings that mean nothing."""
        faults = []
        if not 0 <= self.data.max_bad_fraction <= 1:
            where = f"data.max_bad_fraction: expected from 0 to 1, found {self.data.max_bad_fraction:g}"
            faults.append(RecipeError(where, hint="0.01 allows one bad row in a hundred"))
        if (patience := self.eval.early_stopping_patience) is not None and patience < 1:
            where = f"eval.early_stopping_patience: expected at least 1, found {patience}"
            faults.append(RecipeError(where, hint="null, or leave it out, never stops early"))
        if not self.cache.max_gb >= 0:
            where = f"cache.max_gb: expected at least 0, found {self.cache.max_gb:g}"
            faults.append(RecipeError(where, hint="to do without, set cache.enabled: false"))
        if self.model.revision is not None and Path(self.model.name).is_dir():
            where = f"model.revision: '{self.model.revision}' has no meaning for the folder {self.model.name}"
            faults.append(RecipeError(where, hint="it selects a version of a model on the hub; leave it out"))
        return faults

    def without_secrets(self) -> Self:
        """The recipe as it may be written down and shared: less tokens, keys and passwords, also in addresses."""
        return self._remade({"name": None, **_without_secrets(self.as_dict())})

    # ---- settings of plugins ---------------------------------------------------------------------------

    def settings(self, kind: type[S]) -> S:
        """The section of the plugin whose `toolkit_settings` answers `kind`, as an instance of it."""
        try:
            return self._settings[kind]  # type: ignore[no-any-return]
        except KeyError:
            raise RecipeError(
                f"{kind.__name__} is the settings class of no loaded plugin (plugins: {', '.join(self.plugins)})",
                hint="the plugin's toolkit_settings() must return the class; a changed recipe is bound when it runs",
            ) from None

    def with_settings(self, settings: Mapping[type, Any]) -> Self:
        """This recipe, whose `settings` answers the instances given by class; done as its plugins are loaded."""
        bound = copy.copy(self)
        object.__setattr__(bound, "_settings", dict(settings))
        return bound


def _name_faults(name: Any) -> list[RecipeError]:
    if isinstance(name, str) and re.fullmatch(r"[\w-][\w. -]*", name):
        return []
    return [
        RecipeError(
            f"name: expected letters, digits, '-', '_', '.' and spaces, beginning with no dot, found {show(name)}",
            hint="it names the run's folder, such as `name: my-run`",
        )
    ]


def _plugin_faults(plugins: Any) -> list[RecipeError]:
    if not isinstance(plugins, list) or not all(isinstance(one, str) for one in plugins):
        return [
            RecipeError(
                f"plugins: expected a list of names, found {show(plugins)}",
                hint="for example `plugins: [whisper]`",
            )
        ]
    if len({bare(one) for one in plugins}) < len(plugins):
        return [RecipeError(f"plugins: a name stands twice in {show(plugins)}", hint="name each plugin once")]
    return []


def _may_be_a_section(key: str) -> bool:
    """Whether a key, where the plugins are not known, is more likely a plugin's than a misspelt one of the core's."""
    return key not in _KEYS and did_you_mean(key, _KEYS) is None


def _key_faults(values: Mapping[str, Any], known: list[str], where: str) -> list[RecipeError]:
    """Keys that are none of `known`, and settings that are passed on but are no mapping."""
    faults = []
    for key, value in values.items():
        if key not in known:
            faults.append(unknown_key(where, key, known))
        elif key not in ("name", "plugins", *_SPECS) and not isinstance(value, Mapping):
            place = key if where == "recipe" else f"{where}.{key}"
            faults.append(no_mapping(place, value))
    return faults


def _modernise(values: Any, where: str) -> list[RecipeError]:
    """Spell the training arguments in a mapping of a recipe's keys as they are spelt today."""
    if not isinstance(values, dict) or not isinstance(values.get("train"), Mapping):
        return []
    try:
        values["train"] = modern(values["train"], f"{where}train.")
    except RecipeError as error:
        return [fault for fault in error.all if isinstance(fault, RecipeError)]
    return []


def _sample_faults(sample: Mapping[str, Any], plugins: list[str]) -> list[RecipeError]:
    """A sample is the places of a model and of data, and an overlay that is like a recipe."""
    faults = _key_faults(sample, [*_SAMPLE_KEYS, *plugins], "sample")
    for key in _SHORTHAND:
        if not isinstance(sample.get(key, ""), str):
            faults.append(
                RecipeError(
                    f"sample.{key}: expected a name or a path, found {show(sample[key])}",
                    hint="write it as text",
                )
            )
    for key in ("eval", "cache"):
        faults += build(_SPECS[key], sample.get(key, {}), f"sample.{key}")[1]
    return faults


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
            kept = merged(below if isinstance(below, Mapping) else {}, value)
            if kept or not value or isinstance(below, Mapping):  # removing makes no mapping
                result[key] = kept
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


def _without_secrets(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _without_secrets(value) for key, value in values.items() if not is_secret(key)}
    if isinstance(values, list):
        return [_without_secrets(value) for value in values]
    return without_credentials(values) if isinstance(values, str) else values


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


def _one_by_one(values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A recipe file as single changes; plugins come first, so that their sections are known."""
    known = isinstance(values.get("plugins", []), list)
    for key in sorted(values, key=lambda key: (key != "plugins", key == "sample")):
        if key in _SPECS and isinstance(values[key], Mapping):
            yield from ({key: {name: value}} for name, value in values[key].items())
        elif known or not _may_be_a_section(key):
            yield {key: values[key]}


def _names_a_file(source: str | Path) -> bool:
    path = Path(source)
    if path.suffix.lower() in (".yaml", ".yml"):
        return True
    try:
        return path.is_file()
    except OSError:  # a name too long for a file
        return False


def _absolute(place: str, where: str, *, to_be_made: bool = False) -> str:
    """A path that exists, or is to be made, made absolute; a hub id, or whatever else it is, as it is."""
    try:
        path = Path(place).expanduser()
        return str(path.absolute()) if to_be_made or path.exists() else place
    except RuntimeError:
        raise RecipeError(f"{where}: {place}: there is no such user", hint="write the path in full") from None
    except OSError:  # too long for a path
        return place
