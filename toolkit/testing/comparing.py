"""Whether two rows, batches or numbers are the same, and where not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch


def same(one: Any, other: Any) -> bool:
    """Bit for bit, through mappings and sequences; of objects that cannot tell, the types."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and _equal(one, other)
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and np.array_equal(one, other)
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, Sequence) and not isinstance(one, str | bytes):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    if type(one) is not type(other):
        return False
    kind: Any = type(one)
    return bool(one == other) or kind.__eq__ is object.__eq__ or one != one


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())


def different_keys(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys whose values are not the same."""
    return [
        key
        for key in {**one, **other}
        if key not in one or key not in other or not same(one[key], other[key])
    ]


def relative(one: float, other: float) -> float:
    """How far apart two numbers are, as a share of the larger."""
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    return abs(one - other) / max(abs(one), abs(other))
