"""Where a search looks: for each of some keys of a recipe a range of numbers, or a list of choices."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import RecipeError, did_you_mean
from toolkit.structure import plain, show
from toolkit.yaml12 import read_yaml

_EXAMPLE = "for example train.learning_rate=1e-5..1e-3:log, or adapter.r=4,8,16"
_RANGE = re.compile(r"\s*([^\s,:\[\]{}]+?)\s*\.\.\s*([^\s,:\[\]{}]+?)\s*(?::\s*(\w*)\s*)?")
_SCALES = ("log",)


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones if both ends are; `log`: each decade alike."""

    low: int | float
    high: int | float
    log: bool = False

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def probes(self) -> tuple[Any, ...]:
        """What is checked beforehand: the ends."""
        return (self.low, self.high)

    @property
    def all(self) -> Sequence[Any] | None:
        """Every value there is, or None where there is no end of them."""
        return range(int(self.low), int(self.high) + 1) if self.whole else None

    def written(self) -> str:
        """As it is read back; floats stay floats."""
        return f"{self.low!r}..{self.high!r}{':log' if self.log else ''}"

    def rounded(self, value: float) -> int | float:
        """A value as a person would write it: to four digits, within the ends."""
        return value if self.whole else min(max(float(f"{value:.4g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """One of a few values of any kind; null is the setting's default."""

    values: tuple[Any, ...]

    @property
    def probes(self) -> tuple[Any, ...]:
        return self.values

    @property
    def all(self) -> Sequence[Any] | None:
        return self.values

    def written(self) -> list[Any]:
        return list(self.values)


Space = Mapping[str, Range | Choice]
Values = Mapping[str, Any]


def parse_space(given: Mapping[str, Any]) -> dict[str, Range | Choice]:
    """The space that texts such as `1e-5..1e-3:log` and `4,8,16`, or lists, stand for.

    >>> parse_space({"adapter.r": "4,8", "train.learning_rate": "1e-5..1e-3:log"})["train.learning_rate"]
    Range(low=1e-05, high=0.001, log=True)

    Raises:
        RecipeError: a key or what is said of it is wrong; all faults together.
    """
    found: dict[str, Range | Choice] = {}
    faults: list[RecipeError] = []
    if not given:
        faults.append(RecipeError("no space to search was given", hint=f"name one with --space: {_EXAMPLE}"))
    for key, value in given.items():
        try:
            _check_key(key)
            found[key] = _parsed(key, value)
        except RecipeError as error:
            faults.append(error)
    faults += [
        RecipeError(f"{_where(inner)}: is within '{key}', which is searched too", hint="search one of them")
        for key in found
        for inner in found
        if inner.startswith(f"{key}.")
    ]
    if faults:
        raise RecipeError.gather(faults)
    return found


def written(space: Space) -> dict[str, Any]:
    """The space as plain data, which `parse_space` reads back equal."""
    return {key: where.written() for key, where in space.items()}


def changes(values: Values) -> dict[str, Any]:
    """Values by dotted key as `Recipe.override` takes them.

    >>> changes({"adapter.r": 8, "train.learning_rate": 0.001, "adapter.lora_alpha": 16})
    {'adapter': {'r': 8, 'lora_alpha': 16}, 'train': {'learning_rate': 0.001}}
    """
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        place = nested
        for part in above:
            place = place.setdefault(part, {})
        place[last] = value
    return nested


def probes(space: Space) -> Iterator[dict[str, Any]]:
    """Values to check beforehand: the first of each key, then every other end and choice in place of one of them."""
    first = {key: where.probes[0] for key, where in space.items()}
    yield first
    for key, where in space.items():
        yield from ({**first, key: value} for value in where.probes[1:])


def probes_of_model(space: Space) -> list[dict[str, Any]]:
    """Those of the probes of which only the model can tell whether they are right, such as names of its modules."""
    named = [
        key
        for key, where in space.items()
        if key.partition(".")[0] in ("model", "adapter") and any(not _is_number(one) for one in where.probes)
    ]
    first, *others = probes(space)
    return [first, *(values for values in others if any(values[key] != first[key] for key in named))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def size(space: Space) -> int | None:
    """How many different values there are, or None where there is no end of them."""
    counts = [len(where.all) if where.all is not None else None for where in space.values()]
    return None if None in counts else math.prod(count for count in counts if count is not None)


def as_text(values: Values) -> str:
    """Values as they are typed after `--set`.

    >>> as_text({"adapter.r": 8, "whisper.language": None})
    'adapter.r=8 whisper.language=null'
    """
    return " ".join(f"{key}={cell(value)}" for key, value in values.items())


def cell(value: Any) -> str:
    """A single value as it is typed."""
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- reading ---------------------------------------------------------------------------------------------


def _where(key: str) -> str:
    return f"--space {key}"


def _check_key(key: str) -> None:
    """Refuse keys that are none, and those that trials could not be compared by."""
    if not all(key.split(".")):
        raise RecipeError(f"{_where(key)}: expected a key of the recipe", hint=_EXAMPLE)
    top, _, rest = key.partition(".")
    if top in ("name", "plugins", "sample", "extends", "cache"):
        raise RecipeError(
            f"{_where(key)}: is the same in all trials", hint="search what makes the model better or worse"
        )
    of_rows = (
        top == "data" or key == "train.data_seed" or (top == "eval" and rest != "early_stopping_patience")
    )
    if of_rows:
        raise RecipeError(
            f"{_where(key)}: trials with different values would not be measured on the same rows",
            hint="run them one by one, with --set, and measure them with `toolkit eval --data`",
        )
    if key in ("train.output_dir", "train.resume_from_checkpoint", "train.push_to_hub", "train.report_to"):
        raise RecipeError(f"{_where(key)}: is the search's own business", hint="leave it out")


def _parsed(key: str, given: Any) -> Range | Choice:
    if isinstance(given, list | tuple):
        return _choice(key, plain(given, _where(key)))
    if not isinstance(given, str):
        raise RecipeError(f"{_where(key)}: expected a range or choices, found {show(given)}", hint=_EXAMPLE)
    if (match := _RANGE.fullmatch(given)) is not None:
        return _range(key, given, *match.groups())
    listed = read_yaml(f"[{given}]", _where(key))
    alone = listed[0] if len(listed) == 1 and isinstance(listed[0], list) else listed
    return _choice(key, alone)


def _choice(key: str, values: list[Any]) -> Choice:
    if len(values) < 2:
        raise RecipeError(
            f"{_where(key)}: expected a range or at least two choices, found {show(values)}",
            hint=f"{_EXAMPLE}; a single value is given with --set",
        )
    texts = [json.dumps(value) for value in values]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise RecipeError(f"{_where(key)}: {twice} stands twice", hint="name each choice once")
    return Choice(tuple(values))


def _range(key: str, given: str, low: str, high: str, scale: str | None) -> Range:
    ends = [read_yaml(end, _where(key)) for end in (low, high)]
    problem, hint = None, _EXAMPLE
    if not all(_is_number(end) for end in ends):
        problem, hint = "the ends of a range are numbers", f"{_EXAMPLE}; texts are listed with commas"
    elif scale is not None and scale not in _SCALES:
        problem = f"a range is even, or `:log`, not ':{scale}'"
        hint = did_you_mean(scale, _SCALES) or hint
    elif ends[0] >= ends[1]:
        problem, hint = "the range is empty", "write the lower end first; a single value is given with --set"
    elif scale == "log" and ends[0] <= 0:
        problem, hint = "a range by powers begins above 0", "leave `:log` out, or begin at 1e-6"
    if problem is not None:
        raise RecipeError(f"{_where(key)}: {problem}, found {given.strip()}", hint=hint)
    first, last = ends if all(isinstance(end, int) for end in ends) else (float(ends[0]), float(ends[1]))
    return Range(first, last, log=scale == "log")
