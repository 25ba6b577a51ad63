"""Captions read with others of about their length, so that little of what a tower reads is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from toolkit import in_place_of_forward
from toolkit_clip.recall import trains

AT_ONCE = 8
"""Captions in a group: for a CPU few enough to be alike, and enough to keep it busy."""


@contextmanager
def by_length(clip: Any) -> Iterator[None]:
    """Meanwhile the text tower reads the captions of a batch in groups, where that is quicker: on a CPU.

    What comes after the end of a text changes nothing in a CLIP, whose texts are read from left to right. A tower that
    does not train is given captions of one length at a time, so what is kept of it is known by the caption alone.

    Args:
        clip: unwrapped; one that is compiled is left as it is.
    """
    tower = clip.text_model
    from_left = clip.config.model_type == "clip"
    is_kept = "forward" in vars(tower)
    quicker = clip.logit_scale.device.type == "cpu" or (is_kept and not trains(tower))
    if not from_left or not quicker or hasattr(clip, "_orig_mod"):
        yield
        return
    with in_place_of_forward(tower, _Grouped(tower) if trains(tower) else _OfOneLength(tower.forward)):
        yield


class _Grouped:
    """A tower that trains, on groups of captions."""

    def __init__(self, tower: Any) -> None:
        self.compute, self.embedding = tower.forward, tower.embeddings.token_embedding

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        order, groups = groups_of(attention_mask)
        if len(groups) == 1:
            return self.compute(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        embedded = self.embedding(input_ids)  # once: its gradient is as large as the vocabulary
        made = []
        for rows, longest in groups:
            part = {"input_ids": input_ids[rows, :longest], "attention_mask": attention_mask[rows, :longest]}
            with in_place_of_forward(self.embedding, _returning(embedded[rows, :longest])):
                made.append(self.compute(**part, **kwargs))
        return _together(made, [one.pooler_output for one in made], order)


class _OfOneLength:
    """A tower that does not train, on captions of one length at a time."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        self.compute = compute

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **kwargs: Any) -> Any:
        order, groups = groups_of(attention_mask, alike=True)
        made = []
        for rows, length in groups:
            # Of one row of few tokens the products are summed in another order than of several.
            rows = rows.expand(2) if len(rows) == 1 else rows
            part = {"input_ids": input_ids[rows, :length], "attention_mask": attention_mask[rows, :length]}
            made.append(self.compute(**part, **kwargs))
        pooled = [one.pooler_output[: len(rows)] for one, (rows, _) in zip(made, groups, strict=True)]
        return _together(made, pooled, order)


def _together(made: list[Any], pooled: list[Tensor], order: Tensor) -> Any:
    """The outputs of groups as those of all captions, in their own order."""
    return type(made[0])(pooler_output=torch.cat(pooled)[order.argsort()])


def _returning(embedded: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda input: embedded


def groups_of(attention_mask: Tensor, alike: bool = False) -> tuple[Tensor, list[tuple[Tensor, int]]]:
    """The order of the captions by length, and that in groups, each with its longest's length.

    >>> order, groups = groups_of(torch.tensor([[1, 1, 1], [1, 1, 0]]))
    >>> order.tolist(), [(rows.tolist(), longest) for rows, longest in groups]
    ([1, 0], [([1, 0], 3)])

    Args:
        attention_mask: (T, tokens), 1 where there is text, which is on the left.
        alike: no caption in a group is shorter than another.
    """
    lengths = attention_mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    if alike or int(lengths.min()) == int(lengths.max()):
        sizes: Any = [count for count in torch.bincount(lengths).tolist() if count]
    else:
        sizes = AT_ONCE
    return order, [(rows, int(lengths[rows[-1]])) for rows in torch.split(order, sizes)]
