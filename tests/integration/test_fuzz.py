"""Whatever is given, a result comes of it or a `ToolkitError`: thousands of recipes, overrides, tables and rows.

`FUZZ_CASES` says how many of each, anew each time; without it there are few, always the same.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Install
from tests.core import tiny
from toolkit import Recipe, hookimpl, hookspecs, run
from toolkit.cli.options import recipe_and_faults
from toolkit.data.columns import name_columns
from toolkit.data.folders import folder_splits, table_rows
from toolkit.data.rows import PreparedRows
from toolkit.discovery import place_in_plugin
from toolkit.errors import ToolkitError
from toolkit.plugins import Plugins
from toolkit.yaml12 import read_yaml, write_yaml

CASES = int(os.environ.get("FUZZ_CASES", "0"))
fuzzed = settings(
    max_examples=CASES or 150,
    derandomize=not CASES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
slow = settings(fuzzed, max_examples=CASES or 40)

# ---- what is given -----------------------------------------------------------------------------------------

LETTERS = st.text(max_size=12) | st.sampled_from(
    ["", " ", "~", "no", "1e-4", "0x1F", "0" * 30, "a.b", "../x", "/", "~nobody/x", "\0", "\x1b[2J", "\ud800",
     "x" * 300, "sample", "http://u:p@x", "{{", "null", "-", "[]", "'", '"', "&a [*a]", "!!python/name:os.system", "<<"]
)  # fmt: skip
HUGE = st.sampled_from([400, 4_000]).map(lambda digits: 10**digits)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**63, 1e308, -0.0, float("nan")]) | HUGE
SCALARS = st.none() | st.booleans() | NUMBERS | LETTERS
JUNK = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(LETTERS, below, max_size=3),
    max_leaves=8,
)
ODD = (
    JUNK
    | st.just(5_000).map(lambda digits: -(10**digits))
    | st.sampled_from(
        [b"bytes", object(), Path("x"), ("a", 1), {1: 2}, {"a": {None: 1}}, {1, 2}, range(3), int]
    )
)
KEYS = st.sampled_from(["name", "plugins", "model", "data", "adapter", "train", "eval", "cache", "sample", "whisper",
                        "clip", "causal-lm", "extends", "modell", ""])  # fmt: skip
BELOW = st.sampled_from(
    ["name", "revision", "dtype", "quantization", "from_config", "trust_remote_code", "source", "config", "columns",
     "streaming", "limit", "validation_fraction", "on_error", "max_bad_fraction", "kind", "r", "target_modules",
     "lora_alpha", "learning_rate", "num_train_epochs", "max_steps", "output_dir", "report_to", "fp16", "seed", "optim",
     "metrics", "before", "max_samples", "early_stopping_patience", "max_gb", "dir", "enabled", "language", "num_beams",
     "train_sampling_strategy", "hub_token", "resume_from_checkpoint", "evaluation_strategy", "warmup_ratio", "speed"]
)  # fmt: skip


def sections(values: Any) -> Any:
    return values | st.dictionaries(BELOW | LETTERS, values, max_size=4)


PLUGINS = st.lists(st.sampled_from(["whisper", "clip", "causal-lm"]) | LETTERS, max_size=2) | ODD
RECIPES = st.fixed_dictionaries({}, optional={"plugins": PLUGINS}).flatmap(
    lambda some: st.dictionaries(KEYS, sections(ODD), max_size=5).map(lambda rest: {**rest, **some})
)


def tolerant(act: Callable[[], Any]) -> Any:
    """What comes of it, or None where it is refused in our words, with a hint."""
    try:
        return act()
    except ToolkitError as error:
        for one in error.all:
            assert one.message
            str(one).encode("utf-8", "surrogatepass")
        return None


# ---- recipes -----------------------------------------------------------------------------------------------


def used(recipe: Recipe) -> None:
    """As a run does it: as plain data and back, resolved, checked."""
    same = tolerant(lambda: Recipe(**recipe.as_dict()))
    assert same is None or repr(same) == repr(recipe)  # repr, for nan is not itself
    tolerant(lambda: read_yaml(write_yaml(recipe.as_dict()), "dumped"))
    tolerant(recipe.without_secrets)
    resolved = tolerant(recipe.resolved)
    if resolved is not None:
        tolerant(lambda: Plugins(resolved).check())
        tolerant(resolved.validate)


@slow
@given(RECIPES)
def test_recipes_in_code(values: dict[str, Any]) -> None:
    recipe = tolerant(
        lambda: Recipe(**{"name": "fuzzed", **{str(key): value for key, value in values.items()}})
    )
    if recipe is not None:
        used(recipe)


@slow
@given(RECIPES)
def test_overrides_in_code(changes: dict[str, Any]) -> None:
    changes.pop("name", None)
    recipe = tolerant(lambda: Recipe.load("whisper-asr").override(**changes))
    if recipe is not None:
        used(recipe)


def dumped(values: Any) -> str:
    try:
        return str(yaml.safe_dump(values, allow_unicode=True))
    except (yaml.YAMLError, ValueError, UnicodeError):
        return repr(values)


YAML = st.dictionaries(KEYS | LETTERS, sections(JUNK), max_size=5).map(dumped) | JUNK.map(dumped)
LINES = st.sampled_from(
    ["a: &a [x, x]", "b: &b [*a, *a]", "train: *a", "<<: *a", "- x", "? [1, 2]", ": y", "train:", "  seed: 1", "\tx: 1",
     "%YAML 1.1", "---", "...", "!!python/object/apply:os.system [true]", "!!binary x", "!!set {a}", "name: |",
     "data: {",
     "train: {seed: 0x" + "f" * 5_000 + "}", "extends: whisper-asr", "extends: [x]", "2024-01-01: 12:30:00",
     "x: !!float 0x", "y: !!int 1e999", "z: !!bool x", "z: !!timestamp x", "z: 1_000"]
)  # fmt: skip
FILES = YAML | st.lists(LINES | LETTERS, max_size=8).map("\n".join) | st.text()
BYTES = FILES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=60)


@slow
@given(BYTES)
def test_recipe_files(fuzz_folder: Path, content: bytes) -> None:
    path = fuzz_folder / "recipe.yaml"
    path.write_bytes(content)
    loaded = tolerant(lambda: Recipe.load_what_is_right(path))
    recipe = tolerant(lambda: Recipe.load(path))
    if recipe is not None:
        assert loaded is not None
        used(recipe)


SETTINGS = st.tuples(KEYS | LETTERS, BELOW | LETTERS, FILES | LETTERS).map(
    lambda one: f"{one[0]}.{one[1]}={one[2]}"
)


@slow
@given(
    st.lists(SETTINGS | LETTERS, max_size=4),
    st.none() | LETTERS,
    st.none() | LETTERS,
    st.lists(LETTERS, max_size=1),
)
def test_overrides_on_the_command_line(
    changes: list[str], model: str | None, data: str | None, plugins: list[str]
) -> None:
    options = argparse.Namespace(
        task="causal-lm", recipe=None, model=model, data=data, plugin=plugins, changes=changes
    )
    recipe, _ = recipe_and_faults(options)
    if recipe is not None:
        used(recipe)


# ---- tables and rows ---------------------------------------------------------------------------------------

CELLS = LETTERS | st.sampled_from(
    ['"', '""', ",", "\r", "\n", "\r\n", "file_name", "a.wav", '"a\nb"', "x" * 140_000]
)
CSV = st.lists(st.lists(CELLS, max_size=4).map(",".join), max_size=5).map("\n".join)
COLUMNS = st.sampled_from(
    ["file_name", "text", "audio", "image", "caption", "messages", "prompt", "completion", "language", "start", "end",
     "role", "content", "bytes", "path", "array", "sampling_rate", "segments"]
)  # fmt: skip
OBJECTS = st.dictionaries(COLUMNS | LETTERS, JUNK, max_size=5)
TURNS = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "assistant", "system", "x"]) | JUNK,
                                            "content": LETTERS | JUNK})  # fmt: skip
CHATS = st.fixed_dictionaries({"messages": st.lists(TURNS, max_size=4)})


def as_line(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # a number of too many digits
        return '{"text": ' + "9" * 5_000 + "}"


JSONL = st.lists((OBJECTS | CHATS | JUNK).map(as_line) | LETTERS, max_size=5).map("\n".join)


def read_all(splits: Any) -> None:
    for split, rows in splits.items():
        prepared = PreparedRows(split, rows, rows.ids)
        for place in range(len(rows)):
            fetched = prepared[place]
            assert (fetched.row is None) == bool(fetched.bad)
            rows.place(place).encode("utf-8", "surrogatepass")
        assert b"".join(rows.source.contents(rows.ids)) is not None


@fuzzed
@given(
    st.sampled_from(["metadata", "train"]),
    st.sampled_from(["csv", "jsonl"]),
    CSV | JSONL | st.binary(max_size=80),
)
def test_tables(fuzz_folder: Path, stem: str, ending: str, content: str | bytes) -> None:
    for old in fuzz_folder.iterdir():
        old.unlink()
    path = fuzz_folder / f"{stem}.{ending}"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    for source in (lambda: folder_splits(fuzz_folder), lambda: {"train": table_rows(path, fuzz_folder)}):
        splits = tolerant(source)
        if splits is None:
            continue
        tolerant(lambda splits=splits: read_all(splits))
        for task in ("whisper-asr", "clip-contrastive", "causal-lm"):
            columns = plugins_of(task).columns()
            tolerant(lambda splits=splits, columns=columns: read_all(name_columns(splits, columns, {})))


@cache
def plugins_of(task: str) -> Plugins:
    return Plugins(Recipe.load(task).resolved())


@cache
def processor_of(task: str) -> Any:
    return plugins_of(task).model()()[1]


SOUND = JUNK | st.fixed_dictionaries(
    {}, optional={"array": st.lists(NUMBERS, max_size=4) | JUNK, "sampling_rate": NUMBERS | JUNK,
                  "bytes": st.binary(max_size=50) | JUNK, "path": JUNK}
)  # fmt: skip
TIMES = st.fixed_dictionaries({}, optional={"start": JUNK, "end": JUNK, "language": JUNK})
ROWS = {
    "whisper-asr": st.tuples(SOUND, JUNK, TIMES).map(lambda one: {"audio": one[0], "text": one[1], **one[2]}),
    "clip-contrastive": st.tuples(SOUND, JUNK).map(lambda one: {"image": one[0], "caption": one[1]}),
    "causal-lm": CHATS | OBJECTS,
}


@pytest.mark.parametrize("task", ROWS)
@fuzzed
@given(st.data())
def test_rows(task: str, data: Any) -> None:
    row = data.draw(ROWS[task])
    plugins, processor = plugins_of(task), processor_of(task)
    tolerant(lambda: PreparedRows("train", [row], [0], plugins.prepare(processor))[0])
    look = plugins.inspect(processor)
    if look is not None:
        tolerant(lambda: look({**row, "row_id": 0}))
    length = plugins.row_length()
    if length is not None:
        tolerant(lambda: length({**row, "row_id": 0}))


@pytest.fixture(scope="module")
def fuzz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


# ---- what plugins give -------------------------------------------------------------------------------------


class Odd:
    """Something that is nothing the core knows."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> None:
        return None


GIVEN = JUNK | st.sampled_from(
    [b"x", Odd(), Odd, ("a", 1), (None, None), {1: 2}, range(3), [Odd()], [int], {"num_targets": 1},
     {"num_targets": "a", "row_id": 3}, {"num_targets": 1, "row_id": [0], "input_ids": "x"}]
)  # fmt: skip
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("toolkit_"))
TINY_ROWS = {"train": tiny.rows(4), "test": tiny.rows(3, seed=1)}


def answering(hook: str, value: Any, is_called: bool) -> Any:
    """The hook, which answers a value, or a callable that gives it."""
    names = list(inspect.signature(getattr(hookspecs, hook)).parameters)
    answer = (lambda *_, **__: value) if is_called else value
    space: dict[str, Any] = {"answer": answer}
    exec(f"def {hook}({', '.join(names)}): return answer", space)
    return hookimpl(space[hook])


@pytest.fixture
def tiny_module(install: Install) -> Any:
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": tiny.PLUGIN})
    import toolkit_tiny  # type: ignore[import-not-found]

    return toolkit_tiny


@pytest.mark.parametrize("hook", HOOKS)
@settings(fuzzed, max_examples=CASES // 100 or 5)
@given(GIVEN, st.booleans())
def test_what_hooks_give(tiny_module: Any, tmp_path: Path, hook: str, value: Any, is_called: bool) -> None:
    train = {"max_steps": 1, "per_device_train_batch_size": 4, "save_strategy": "no", "use_cpu": True}
    recipe = Recipe(name="tiny", plugins=["tiny"], model="tiny", train=train, cache={"enabled": False})
    own = vars(tiny_module).get(hook)
    setattr(tiny_module, hook, answering(hook, value, is_called))
    try:
        finished = tolerant(lambda: run(recipe, tmp_path / "run", data=TINY_ROWS))
        if finished is not None:
            tolerant(lambda: finished.predictions(["3 4"]))
    except Exception as error:
        if place_in_plugin(error) is None:  # else it is the plugin's other hooks', over what this one gave
            raise
    finally:
        setattr(tiny_module, hook, own) if own is not None else delattr(tiny_module, hook)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
