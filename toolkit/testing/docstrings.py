"""What a collator's docstring says of its batch.

Each key stands in backticks. Behind that of a tensor come its axes in brackets, then its type:

    `labels` (rows, tokens) int64; `mean`, `std` (3,) float32, by which images are normalised; `references`, texts;
    maybe `weights` (rows,) float32

What comes after several keys is said of all of them. Axes of one name are equally long everywhere in a batch, and a
number is a length; `rows`, `batch` and `B` are as many as there are rows. `maybe`: it is not there in each batch.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_KEY = re.compile(
    r"(?P<maybe>\bmaybe\s+)?`(?P<name>\w+)`(?:\s*\((?P<axes>[^()]*)\),?(?:\s+(?P<dtype>[a-z]+\d+|bool)\b)?)?"
)
_BETWEEN = re.compile(r"\s*(?:,|and|,\s*and|or)\s*")


@dataclass(frozen=True)
class Described:
    """One key. `axes` and `dtype` are None where nothing is said of them."""

    name: str
    axes: tuple[str, ...] | None
    dtype: str | None
    is_optional: bool

    def differences(self, tensor: Any, sizes: dict[str, int]) -> Iterator[str]:
        """Where a tensor is otherwise; the lengths of its axes are added to `sizes`."""
        dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        if self.axes is None:
            yield f"`{self.name}` is a tensor, and its axes are not said: it has the shape {shape}"
        elif len(self.axes) != len(shape):
            yield f"`{self.name}` has the shape {shape}, not ({', '.join(self.axes)})"
        else:
            for axis, size in zip(self.axes, shape, strict=True):
                expected = int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
                if size != expected and (axis.isdigit() or axis.isidentifier()):
                    yield f"`{self.name}` has the shape {shape}, and {axis} is {expected}"
        if self.axes is not None and self.dtype != dtype:
            yield (
                f"`{self.name}` is {dtype}, not {self.dtype}"
                if self.dtype
                else f"`{self.name}` is {dtype}, which is not said"
            )


def docstring_of(collator: Any) -> str:
    """What a function, or an object's class and its `__call__`, say of what is returned."""
    if isinstance(collator, functools.partial):
        return docstring_of(collator.func)
    if inspect.isroutine(collator):
        return _of_result(inspect.getdoc(collator) or "")
    docs = (inspect.getdoc(type(collator)), inspect.getdoc(type(collator).__call__))
    return "\n".join(_of_result(doc or "") for doc in docs)


def described(doc: str) -> dict[str, Described]:
    """Each key that stands in backticks, by name."""
    found: dict[str, Described] = {}
    waiting: list[str] = []
    end = 0
    for match in _KEY.finditer(doc):
        if not _BETWEEN.fullmatch(doc[end : match.start()]):
            waiting = []
        name, axes = match["name"], _axes(match["axes"])
        found.setdefault(name, Described(name, axes, match["dtype"], match["maybe"] is not None))
        if axes is None:
            waiting.append(name)
        else:
            for one in waiting:
                found[one] = Described(one, axes, match["dtype"], found[one].is_optional)
            waiting = []
        end = match.end()
    return found


def _axes(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _of_result(doc: str) -> str:
    """The part of a docstring that is not about arguments and errors."""
    doc = doc.partition("Returns:")[2] if "Returns:" in doc else doc.partition("Args:")[0]
    return re.split(r"^\s*(?:Raises|Source):", doc, flags=re.MULTILINE)[0]
