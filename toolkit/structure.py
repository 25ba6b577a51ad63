"""Plain data into typed dataclasses, with every fault found at once."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from toolkit.errors import RecipeError, did_you_mean

T = TypeVar("T")
_SECRET = re.compile(
    r"^token$"
    r"|(hub|hf|auth|access|api|bot|session|refresh|bearer|slack|github|gitlab|wandb|private|secret)_?tokens?$"
    r"|(api|access|secret|private|account|signing|encryption)_?keys?$"
    r"|(password|passwd|passphrase|secret|credential)s?$|(^|_)(pwd|authorization)$",
    re.IGNORECASE,
)
LARGEST = 10**1_000
"""Larger numbers Python may refuse to write in decimals."""


def build(kind: type[T], values: Any, where: str) -> tuple[T | None, list[RecipeError]]:
    """`values` as an instance of the dataclass `kind`, or None and the faults.

    Args:
        values: a mapping of plain data; nothing is coerced, so text is no number.
        where: the dotted place in the recipe, for the errors.
    """
    if not isinstance(values, Mapping):
        return None, [no_mapping(where, values)]
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    faults = [unknown_key(f"{where}.{key}", str(key), names) for key in values if key not in names]
    known = {key: value for key, value in values.items() if key in names}
    try:
        instance = TypeAdapter(kind).validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        # A union reports each of its branches; the first is the simplest way to be right.
        branches: dict[Any, list[Any]] = {}
        for problem in error.errors():
            branches.setdefault(problem["loc"][:1], []).append(problem)
        return None, faults + [_fault(where, problems) for problems in branches.values()]
    return (None if faults else instance), faults


def is_secret(key: str) -> bool:
    """Whether a setting of that name is one to keep to oneself; `pad_token` and the like are none."""
    return _SECRET.search(key) is not None


def unknown_key(where: str, key: str, names: list[str]) -> RecipeError:
    return RecipeError(
        f"{where}: unknown key '{key}'",
        hint=did_you_mean(key, names) or f"known keys: {', '.join(sorted(names))}",
    )


def show(value: Any) -> str:
    """A value as an error names it: short, on one line."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except (TypeError, ValueError):  # keys that are no text, or a value that contains itself
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def plain(value: Any, where: str) -> Any:
    """A deep copy of plain data, tuples and paths made plain.

    Raises:
        RecipeError: something in it cannot be written to a file and read back.
    """
    try:
        return _plain(value, where)
    except RecursionError:
        raise RecipeError(
            f"{where}: contains itself, or is nested too deeply", hint="write plain values"
        ) from None


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RecipeError(f"{where}: key {key!r} is no text", hint=f"write '{key}' in quotes")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, where) for item in value]
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise RecipeError(f"{where}: a number of far too many digits", hint="write a smaller one")
    for kind in (bool, int, float, str):  # also what descends from them, such as numbers of numpy
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if hasattr(value, "__fspath__"):
        return str(value)
    raise RecipeError(
        f"{where}: a recipe holds plain values, not {type(value).__name__}",
        hint="give objects to `toolkit.run(recipe, data=..., model=..., processor=...)`",
    )


def _fault(where: str, branches: list[Any]) -> RecipeError:
    # Branches of a union carry the type's name in the place; the settings' own keys are what the user knows.
    problem, *others = branches
    place = ".".join([where, *(str(part) for part in problem["loc"][:1])])
    fault = wrong_value(place, problem, problem["input"])
    if problem["type"] == "literal_error" and any(other["type"] == "float_type" for other in others):
        return RecipeError(fault.message, f"{fault.hint}, or write a number")
    return fault


def no_mapping(where: str, value: Any) -> RecipeError:
    return RecipeError(
        f"{where}: expected a mapping of settings, found {show(value)}", hint=f"write {where}: {{key: value}}"
    )


def wrong_value(where: str, problem: Any, value: Any) -> RecipeError:
    """A value that has not the type it should have, by pydantic's account of it."""
    message = problem["msg"]
    found = "what is not shown" if is_secret(where.rpartition(".")[2]) else show(value)
    return RecipeError(
        f"{where}: {message[0].lower()}{message[1:]}, found {found}", hint=_how_to_write(problem, value)
    )


_HOW_TO_WRITE = {
    "bool": "write true or false",
    "dict": "write settings: {key: value}",
    "float": "write a number such as 1e-4, without quotes",
    "int": "write a whole number, without quotes",
    "list": "write a list: [one, another]",
    "string": "write text; what looks like a number goes in quotes",
    "tuple": "write a list: [one, another]",
}


def _how_to_write(problem: Any, value: Any) -> str:
    if problem["type"] in ("literal_error", "enum"):
        choices = re.findall("'([^']*)'", problem["ctx"]["expected"])
        return did_you_mean(str(value), choices) or "choose one of them"
    return _HOW_TO_WRITE.get(problem["type"].partition("_")[0], "its documentation says what it may be")
