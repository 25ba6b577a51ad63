"""What docs/recipes.md says of a recipe's keys is so, and there are no others."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from toolkit import Recipe, RecipeError, recipe
from toolkit.cli.options import add_recipe_arguments, recipe_from, settings_from
from toolkit.data.splits import ALIASES
from toolkit.plugins import Plugins
from toolkit.recipe import CacheSpec, DataSpec, EvalSpec, ModelSpec
from toolkit.yaml12 import read_yaml

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
SPECS = {"model": ModelSpec, "data": DataSpec, "eval": EvalSpec, "cache": CacheSpec}


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [body for kind, body in found if kind == language]


def section(title: str) -> str:
    found = re.search(rf"^## `?{title}`?$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table rows, those of headers left out."""
    tables = re.findall(r"^\|.*\|\n\|---.*\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def written(value: Any) -> str:
    """A default as it stands in a table."""
    return value if isinstance(value, str) else json.dumps(value)


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser)
    return parser.parse_args(arguments)


def defaults(spec: type) -> dict[str, str]:
    return {field.name: written(getattr(spec(), field.name)) for field in dataclasses.fields(spec)}


@pytest.mark.parametrize("name", SPECS)
def test_every_key_is_in_the_table_with_its_default(name: str) -> None:
    there = [(key, default) for key, default, _ in rows(name)]
    assert there == [(f"`{name}.{key}`", default) for key, default in defaults(SPECS[name]).items()]


def test_the_top_level() -> None:
    bare = Recipe(name="x").as_dict()
    known = {**{key: {} for key in ("eval", "cache")}, "model": "sample", "data": "sample", "sample": None}
    there = {cells[0]: cells[1] for cells in rows("The top level")}
    assert there.keys() == {"`extends`", *(f"`{key}`" for key in recipe._KEYS)}
    for key in {*recipe._KEYS} - {"name"}:
        assert there[f"`{key}`"] == written(known.get(key, bare.get(key))), key


def test_no_key_is_named_that_does_not_exist() -> None:
    """`section.key` anywhere on the page, in tables, text and commands."""
    from toolkit.adapters import LoraConfig
    from toolkit.arguments import TrainingArguments

    known = {name: {field.name for field in dataclasses.fields(spec)} for name, spec in SPECS.items()}
    known["adapter"] = {"kind", *(field.name for field in dataclasses.fields(LoraConfig))}
    known["train"] = {field.name for field in dataclasses.fields(TrainingArguments)}
    for name, keys in known.items():
        named = set(re.findall(rf"(?<![\w./]){name}\.(\w+)(?!\.\w*/)", PAGE))
        assert named - {"csv", "md", "yaml"} <= keys, (name, named - keys)


def test_the_adapters_defaults_are_those_of_peft() -> None:
    from toolkit.adapters import LoraConfig, configure

    [[kind, default, _], *others] = rows("adapter")
    assert kind == "`adapter.kind`"
    assert type(configure({"kind": default})) is LoraConfig
    bare = LoraConfig()
    assert len(others) == 5
    for key, default, _ in others:
        assert written(getattr(bare, key.strip("`").removeprefix("adapter."))) == default, key


# ---- training arguments ----------------------------------------------------------------------------------


def test_training_arguments_that_differ_from_upstreams(tmp_path: Path) -> None:
    """Those of a bare run, but for what it decides by itself; `do_train` and `do_eval` are read by the run alone."""
    import torch
    import transformers

    from toolkit.arguments import training_arguments

    there = {cells[0].strip("`").removeprefix("train."): cells[1:3] for cells in rows("train")}
    ours, upstream = training_arguments({}, tmp_path), transformers.TrainingArguments()
    fields = [field.name for field in dataclasses.fields(ours)]
    decided = ["disable_tqdm", "remove_unused_columns", "log_level"]
    different = {
        name
        for name in fields
        if name not in decided and getattr(ours, name) != getattr(upstream, name, "there is none")
    }
    by_run = {"do_train", "do_eval", "do_predict", "resume_from_checkpoint", "greater_is_better"}
    pinned = set() if torch.accelerator.is_available() else {"dataloader_pin_memory"}
    assert different - pinned == there.keys() - by_run - {"dataloader_pin_memory"}
    for name in different - {"output_dir", "logging_dir", "dataloader_pin_memory"}:
        assert there[name] == [_plain(getattr(ours, name)), _plain(getattr(upstream, name, ""))], name
    for name in by_run - {"greater_is_better"}:
        assert there[name][1] == _plain(getattr(upstream, name)), name


def _plain(value: Any) -> str:
    return written(getattr(value, "value", value))


def test_what_a_run_decides_and_refuses(tmp_path: Path) -> None:
    from toolkit.arguments import training_arguments

    found = re.search(r"^These are set by the run.*?: (.*?)\.\s+These\s+are\s+refused.*?:\s+(.*?)\.$",
                      section("train"), re.MULTILINE | re.DOTALL)  # fmt: skip
    assert found is not None
    decided, refused = (re.findall(r"`(\w+)`", listed) for listed in found.groups())
    bare = training_arguments({}, tmp_path)
    other = {"disable_tqdm": False, "remove_unused_columns": True, "log_level": "debug"}
    assert decided == list(other)
    given = training_arguments(other, tmp_path)
    assert all(getattr(given, name) == getattr(bare, name) for name in decided)
    assert refused[-1] == "fp16"  # by the run, which knows its device
    for name in refused[:-1]:
        with pytest.raises(RecipeError, match=name):
            training_arguments({name: 1.0}, tmp_path)


# ---- how recipes are written -----------------------------------------------------------------------------


def test_three_ways_to_write_one(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(blocks("yaml")[0])
    [typed] = [line for block in blocks() for line in block.splitlines() if "--task" in line]
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    names["mine"].dump(tmp_path / "dumped.yaml")
    by_options = recipe_from(parsed(*shlex.split(typed)[2:]))
    assert Recipe.load(tmp_path / "mine.yaml") == by_options == names["mine"]
    assert Recipe.load(tmp_path / "dumped.yaml") == names["mine"]


def test_a_recipe_from_nothing_and_a_task(tmp_path: Path) -> None:
    _, (_, yaml), (_, program) = None, blocks("yaml"), blocks("python")
    (tmp_path / "any.yaml").write_text(yaml)
    names: dict[str, Any] = {}
    exec(program, names)
    assert Recipe.load(tmp_path / "any.yaml") == names["recipe"]
    assert ast.get_docstring(ast.parse(program))
    Plugins(names["recipe"]).check()


def test_a_file_is_named_after_itself_or_what_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("plugins: [whisper]\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.yaml").write_text("extends: ../mine.yaml\n")  # counts from the file
    assert Recipe.load(tmp_path / "mine.yaml").name == Recipe.load(tmp_path / "sub/other.yaml").name == "mine"


def test_what_is_laid_over_what() -> None:
    table = rows("What extends and overrides what")
    assert len(table) == 5
    for _, *cells in table:
        before, over, after = (read_yaml(cell.strip("`"), "the page") for cell in cells)
        changed = Recipe(name="x", adapter=before).override(adapter=over)
        assert changed.adapter == after


def test_what_else_is_said_of_overriding() -> None:
    before = Recipe(
        name="x",
        model={"name": "a/b", "revision": "v1", "quantization": "4bit"},
        data={"source": "c/d", "config": "en", "columns": {"text": "said"}},
    )
    after = before.override(model="e/f", data="g/h")
    assert (after.model.revision, after.model.quantization) == (None, "4bit")
    assert (after.data.config, after.data.columns) == (None, {"text": "said"})
    task = ("--task", "whisper-asr")
    kinds = [*task, "--set", "adapter.target_modules=[k_proj]", "--set", "adapter.kind=vera"]
    assert recipe_from(parsed(*kinds)).adapter == {"kind": "vera", "target_modules": ["k_proj"]}
    assert recipe_from(parsed(*task, "--plugin", "clip")).plugins == ("whisper", "clip")
    by_model = ["--model", "a/b", "--set", "model=c/d"]
    assert recipe_from(parsed(*task, *by_model)).model.name == "c/d"


def test_the_sample() -> None:
    names = ("learning_rate", "num_train_epochs")
    for task, *values in rows("The sample"):
        made = Recipe.load(task.strip("`"))
        small, large = made.resolved().train, made.override(model="a/b").resolved().train
        assert [float(value) for value in values] == [one[name] for name in names for one in (large, small)]
        said = made.override(train={"learning_rate": 1e-4}).resolved()
        assert (said.train["learning_rate"], said.sample) == (1e-4, None)
        assert made.override(data="c/d").resolved().train == small
    laid = re.search(r"In `sample`, (.*?) are laid", section("The sample"), re.DOTALL)
    assert laid is not None
    assert set(re.findall(r"`(\w+)`", laid[1])) == {*recipe._SAMPLE_KEYS}


TYPED = rows("What `--set` makes of a value")


@pytest.mark.parametrize(("typed", "value"), TYPED, ids=[typed for typed, _ in TYPED])
def test_what_set_makes_of_a_value(typed: str, value: str) -> None:
    options = shlex.split(typed.strip("`"))
    found: Any = settings_from(parsed(*options))
    for part in options[1].partition("=")[0].split("."):
        found = found[part]
    wanted = json.loads(value.strip("`"))
    assert (type(found), found) == (type(wanted), wanted)
    recipe_from(parsed("--task", "whisper-asr", *options))


def test_what_needs_quotes() -> None:
    said = re.search(r"text that begins with (.*?), which mean", PAGE, re.DOTALL)
    assert said is not None
    marks = re.findall(r"`` ` ``|`(.)`", said[1])
    marks = [mark or "`" for mark in marks]
    assert marks == list("*&!%@`[{")
    for mark in marks:
        with contextlib.suppress(RecipeError):
            assert read_yaml(f"{mark}x", "the page") != f"{mark}x"
    assert [read_yaml(one, "the page") for one in ("1_000", "017", "yes")] == ["1_000", 17, "yes"]


def test_the_names_of_splits() -> None:
    [said] = re.findall(r"^`validation` may be called (.*?)\.", PAGE, re.MULTILINE)
    others = {name for name, split in ALIASES.items() if name != split}
    assert set(re.findall(r"`(\w+)`", said)) == others
    assert {ALIASES[name] for name in others} == {"validation"}
