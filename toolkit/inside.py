"""Reaching into a model: what is within its wrappers, and another function in place of a part's forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def unwrapped(model: Any) -> Any:
    """transformers' model within the wrappers of PEFT and of data parallelism; its adapters stay in place."""
    from accelerate.utils import extract_model_from_parallel
    from transformers import PreTrainedModel

    inner = _without_peft(model)
    if isinstance(inner, PreTrainedModel):
        return inner
    return _without_peft(extract_model_from_parallel(model))  # which looks for packages each time


def _without_peft(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def in_place_of_forward(module: Any, other: Callable[..., Any]) -> Iterator[None]:
    """Have a module call another function, which looks as its own forward does.

    with in_place_of_forward(model.vision_model, remembered):
        model(**batch)
    """
    before = vars(module).get("forward")  # others may have put something there
    module.forward = functools.wraps(module.forward, updated=())(other)
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before
