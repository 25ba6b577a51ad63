"""The calls of a stage: what goes in, by rows, and how what comes out holds them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MORE = ("output_hidden_states", "output_attentions")
"""Arguments of transformers' models, by which they give more than they are usually asked for."""


@dataclass(frozen=True)
class Call:
    """The arguments of a stage by name: tensors, which have rows, and plain values, less what is said by default."""

    tensors: Mapping[str, Tensor]
    plain: Mapping[str, Any]

    @classmethod
    def of(
        cls, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Call | None:
        """None where there is anything else, or a gradient is asked for."""
        try:
            given = _by_name(signature, args, kwargs)
        except TypeError:
            return None
        tensors = {name: one for name, one in given.items() if isinstance(one, Tensor)}
        plain = {name: one for name, one in given.items() if name not in tensors}
        if not tensors or not all(isinstance(one, bool | int | float | str | None) for one in plain.values()):
            return None
        counts = {len(one) if one.dim() else 0 for one in tensors.values()}
        if len(counts) > 1 or 0 in counts or any(one.requires_grad for one in tensors.values()):
            return None
        return cls(tensors, plain)

    @property
    def count(self) -> int:
        return len(next(iter(self.tensors.values())))

    @property
    def kind(self) -> str:
        """All of it but the rows' content and their number."""
        device = self.device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        kinds = [(name, one.dtype, tuple(one.shape[1:])) for name, one in sorted(self.tensors.items())]
        return repr((sorted(self.plain.items()), precision, kinds))

    @property
    def form(self) -> str:
        """What is given, and how the stage is asked: it may answer otherwise with other parts."""
        return repr((sorted(self.plain.items()), sorted(self.tensors)))

    @property
    def device(self) -> torch.device:
        return next(iter(self.tensors.values())).device

    def keys(self) -> list[str]:
        """A digest of each row's content."""
        start = hashlib.sha256(self.kind.encode())
        rows = [one.detach().cpu() for _, one in sorted(self.tensors.items())]
        keys = []
        for place in range(self.count):
            digest = start.copy()
            for one in rows:
                digest.update(as_bytes(one[place]))
            keys.append(digest.hexdigest())
        return keys

    def of_rows(self, places: list[int]) -> dict[str, Any]:
        """The arguments for some of the rows."""
        if places == list(range(self.count)):
            return {**self.tensors, **self.plain}
        return {**{name: one[places] for name, one in self.tensors.items()}, **self.plain}


def _by_name(
    signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that say something: not the default, nor that there shall be no further outputs."""
    given: dict[str, Any] = {}
    for name, value in signature.bind(*args, **kwargs).arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            raise TypeError
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given |= {key: one for key, one in value.items() if _says_something(key, one)}
        elif isinstance(value, Tensor) or value != parameter.default:
            given[name] = value
    return given


def _says_something(key: str, value: Any) -> bool:
    """Whether an argument that the signature does not name may change what comes out."""
    if key == "return_dict":
        return value is False
    return bool(value) if key in MORE else True


# ---- what comes out ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How an output holds its rows: a tensor, or a mapping such as transformers' outputs."""

    kind: Any
    names: tuple[str, ...]

    @classmethod
    def of(cls, output: Any, count: int, wanted: Sequence[str] | None) -> Shape | None:
        """None where something of the output is no row's.

        Args:
            wanted: what is kept of a mapping; None: everything.
        """
        if isinstance(output, Tensor):
            return cls(None, ("",)) if output.dim() and len(output) == count else None
        if not isinstance(output, Mapping):
            return None
        there = {
            name: value
            for name, value in output.items()
            if value is not None and (wanted is None or name in wanted)
        }
        if not there or not all(
            isinstance(one, Tensor) and one.dim() and len(one) == count for one in there.values()
        ):
            return None
        return cls(type(output), tuple(there))

    def rows(self, output: Any) -> list[dict[str, Tensor]]:
        """The parts of each row, on the CPU."""
        named = {"": output} if self.kind is None else {name: output[name] for name in self.names}
        parts = {name: tensor.detach().cpu() for name, tensor in named.items()}
        count = len(next(iter(parts.values())))
        return [{name: tensor[place].clone() for name, tensor in parts.items()} for place in range(count)]

    def put_together(self, rows: Sequence[Mapping[str, Tensor] | None], device: torch.device) -> Any:
        stacked = {
            name: torch.stack([row[name] for row in rows if row is not None]).to(device)
            for name in self.names
        }
        return stacked[""] if self.kind is None else self.kind(**stacked)


def same(one: Mapping[str, Tensor] | None, other: Mapping[str, Tensor]) -> bool:
    return (
        one is not None
        and one.keys() == other.keys()
        and all(torch.equal(one[name], other[name]) for name in one)
    )


def nearly_same(one: Mapping[str, Tensor] | None, other: Mapping[str, Tensor]) -> bool:
    """Whether they are the same but for rounding, relative to the largest value."""
    return (
        one is not None
        and one.keys() == other.keys()
        and all(one[name].shape == other[name].shape and _near(one[name], other[name]) for name in one)
    )


def _near(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or not other.is_floating_point():
        return torch.equal(one, other)
    apart = (one.double() - other.double()).abs().max() if one.numel() else 0.0
    return bool(apart <= torch.finfo(one.dtype).eps ** 0.5 * other.double().abs().max())


def as_bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
