"""A package of one's own, written from a template that is a working package itself."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import keyword
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

from toolkit.discovery import KINDS, installed
from toolkit.errors import RecipeError
from toolkit.recipe import Recipe

Template = Literal["task", "extension"]
TEMPLATES = Path(__file__).parent / "templates"

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_MOST = 40
"""How many letters a name may have."""
_TEXTS = (".md", ".py", ".toml")


def new_package(name: str, parent: Path, template: Template = "task") -> tuple[Path, list[str]]:
    """Write the package `toolkit-NAME`, with a plugin and a task of that name, into the new folder `parent/NAME`.

    Returns:
        The folder, and the files in it.
    Raises:
        RecipeError: the name cannot be had, or the folder is there already or cannot be written. Nothing is left then.
    """
    check_name(name)
    folder = parent / name
    if os.path.lexists(folder):
        raise RecipeError(
            f"{folder} is there already", hint="choose another name, or another folder with --dir"
        )
    files = dict(rendered(name, template))
    try:
        _write(folder, files)
    except OSError as error:
        raise RecipeError(
            f"{folder} cannot be written: {error.strerror}",
            hint="choose a folder you may write to with --dir",
        ) from error
    return folder, sorted(files)


def check_name(name: str) -> None:
    """Refuse a name that no package, plugin and task can have, or that another one has.

    Raises:
        RecipeError: what is wrong with it.
    """
    another = "choose another name"
    if not _NAME.fullmatch(name) or len(name) > _MOST:
        raise RecipeError(f"a package cannot be named '{name}'", hint=_better(name))
    if keyword.iskeyword(name) or name in _keys_of_recipes():
        whose = "Python" if keyword.iskeyword(name) else "every recipe"
        raise RecipeError(
            f"'{name}' is a word of {whose}, and cannot name a section of recipes", hint=another
        )
    for kind in KINDS:
        for one in installed(kind):
            if one.name == name:
                raise RecipeError(f"{one.describe()} is installed already", hint=another)
    module = _module(name)
    if importlib.util.find_spec(module) is not None or _is_installed(f"toolkit-{name}"):
        raise RecipeError(f"a package {module} is installed already", hint=another)


def rendered(name: str, template: Template) -> Iterator[tuple[str, bytes]]:
    """The files of a template, by their place in the package, with the name in place of the template's own."""
    root = TEMPLATES / template
    words = {
        f"my-{template}": name,
        f"my_{template}": name.replace("-", "_"),
        f"My{template.title()}": _camel(name),
    }
    pattern = re.compile("|".join(words))
    for path in sorted(root.rglob("*")):
        if path.is_dir() or "__pycache__" in path.parts:
            continue
        place = pattern.sub(lambda found: words[found[0]], path.relative_to(root).as_posix())
        content = path.read_bytes()
        if path.suffix in _TEXTS:
            content = pattern.sub(lambda found: words[found[0]], content.decode()).encode()
        yield place, content


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """All files or none: the folder is made beside its place, and moved there when it is complete."""
    made = [one for one in (folder.parent, *folder.parent.parents) if not one.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as draft:
            for place, content in files.items():
                path = Path(draft, folder.name, place)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            Path(draft, folder.name).rename(folder)
    except BaseException:
        for one in made:
            with contextlib.suppress(OSError):  # it was not made, or somebody else uses it
                one.rmdir()
        raise


def _better(name: str) -> str:
    """A hint with the nearest name that would do."""
    near = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
    fits = f"up to {_MOST} lower-case letters, digits and single hyphens, beginning with a letter"
    is_better = near != name and _NAME.fullmatch(near) and len(near) <= _MOST
    return f"it takes {fits}" + (f": did you mean '{near}'?" if is_better else ", such as 'leaf-disease'")


def _keys_of_recipes() -> set[str]:
    return {"extends", *(field.name for field in dataclasses.fields(Recipe))}


def _module(name: str) -> str:
    return f"toolkit_{name.replace('-', '_')}"


def _camel(name: str) -> str:
    return "".join(part.title() for part in re.split("[-_]", name))


def _is_installed(package: str) -> bool:
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True
