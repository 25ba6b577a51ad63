"""Options that say which recipe is meant, shared by the commands that take one."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from toolkit.discovery import installed
from toolkit.errors import RecipeError, ToolkitError
from toolkit.recipe import Recipe
from toolkit.yaml12 import read_yaml


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE.yaml", help="a recipe file")
    parser.add_argument("--task", metavar="NAME", help="an installed task; `toolkit tasks` lists them")
    parser.add_argument("--model", metavar="M", help="a model folder or hub id instead of the recipe's")
    parser.add_argument("--data", metavar="D", help="a data folder, file or hub id instead of the recipe's")
    add_set_argument(parser, "any key of the recipe, such as --set train.learning_rate=1e-4")
    parser.add_argument(
        "--plugin", metavar="NAME", action="append", default=[], help="a further plugin for this run"
    )
    add_trace_argument(parser)


def add_output_dir_arguments(parser: argparse.ArgumentParser, of: str, default: str) -> None:
    parser.add_argument(
        "--output-dir", metavar="DIR", type=_folder, help=f"the {of}'s folder (default: {default})"
    )
    parser.add_argument(
        "--resume", action="store_true", help=f"go on with the {of} in --output-dir, if there is one"
    )


def _folder(name: str) -> str:
    if not name:
        raise argparse.ArgumentTypeError("the name is empty; leave it out, or name a folder")
    return name


def add_allow_changes_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-changes",
        action="store_true",
        help="go on even if the recipe, the data or the base model is not what the run began with",
    )


def going_on_with(folder: str | None) -> contextlib.AbstractContextManager[None]:
    """Have what a signal ends name the run or search that is gone on with, at whatever moment it comes."""
    from toolkit.folder import known_where_to_go_on

    return known_where_to_go_on(folder) if folder else contextlib.nullcontext()


def add_trace_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trace-hooks", action="store_true", help="show each hook call on stderr: who answers, and what"
    )


def add_set_argument(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="changes", help=f"{what}; values are YAML"
    )  # fmt: skip


def settings_from(options: argparse.Namespace) -> dict[str, Any]:
    """All of `--set` as one mapping; the last word on a key counts."""
    settings: dict[str, Any] = {}
    for change in options.changes:
        _lay_over(settings, _parsed(change))
    return settings


def _lay_over(settings: dict[str, Any], change: dict[str, Any]) -> None:
    """Unlike `merged` it keeps None, which is yet to remove something."""
    for key, value in change.items():
        below = settings.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            _lay_over(below, value)
        else:
            settings[key] = value


def recipe_from(options: argparse.Namespace) -> Recipe:
    """The recipe that the options name, with their changes.

    Raises:
        RecipeError: none or two recipes are named, or settings are wrong; with what is wrong in the rest of them.
        PluginError: no such task.
    """
    recipe, faults = recipe_and_faults(options)
    if recipe is not None and not faults:
        return recipe
    if recipe is not None:
        from toolkit.runs import faults_of

        faults += faults_of(recipe)
    raise type(faults[0]).gather(faults)


def recipe_and_faults(options: argparse.Namespace) -> tuple[Recipe | None, list[ToolkitError]]:
    """The recipe with those changes that can be made, or None without one; and the faults of all that cannot."""
    try:
        recipe, faults = _named(options)
    except ToolkitError as error:
        return None, list(error.all)
    for change in _changes(options, recipe.plugins):
        try:
            recipe = recipe.override(**(_parsed(change) if isinstance(change, str) else change))
        except ToolkitError as error:
            faults += error.all
    return recipe, faults


def _named(options: argparse.Namespace) -> tuple[Recipe, list[ToolkitError]]:
    if options.task is None and options.recipe is None:
        tasks = ", ".join(task.name for task in installed("task"))
        raise RecipeError(
            "no task and no recipe file given",
            hint=f"give one: --task NAME (installed: {tasks}), or RECIPE.yaml",
        )
    if options.task is not None and options.recipe is not None:
        raise RecipeError(
            f"both a task, {options.task}, and a recipe file, {options.recipe}, given",
            hint="give one of them; a setting is given without spaces: --set KEY=VALUE",
        )
    if options.recipe and os.path.isdir(options.recipe):  # noqa: PTH112 (pathlib raises where a name is too long)
        raise _folder_for_recipe(Path(options.recipe))
    return Recipe.load_what_is_right(options.recipe if options.task is None else options.task)


def _folder_for_recipe(folder: Path) -> RecipeError:
    if (folder / "recipe.yaml").is_file():
        return RecipeError(
            f"{folder} is the folder of a run, not a recipe file",
            hint=f"go on with it: toolkit resume {folder}; or the same once more: toolkit run {folder}/recipe.yaml",
        )
    return RecipeError(
        f"{folder} is a folder, not a recipe file", hint=f"a folder of data is named by --data {folder}"
    )


def _changes(options: argparse.Namespace, plugins: Sequence[str]) -> Iterator[dict[str, Any] | str]:
    """What `override` is given, in order, `--set` still as text; first the kind of adapter, which resets the rest."""
    if options.model is not None:
        yield {"model": options.model}
    if options.data is not None:
        yield {"data": options.data}
    if options.plugin:
        yield {"plugins": [*plugins, *options.plugin]}
    yield from sorted(options.changes, key=lambda change: not change.startswith("adapter.kind="))


def _parsed(change: str) -> dict[str, Any]:
    """`a.b=1` as `{"a": {"b": 1}}`."""
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise RecipeError(
            f"--set {change}: expected KEY=VALUE", hint="for example --set train.learning_rate=1e-4"
        )
    value = read_yaml(text, f"--set {key}")
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)
