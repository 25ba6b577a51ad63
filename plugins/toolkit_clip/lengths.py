"""Captions read with others of about their length, so that little of what a tower reads is padding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from toolkit_clip.forwards import in_place_of_forward, trains

AT_ONCE = 8
"""Captions in a group: for a CPU few enough to be alike, and enough to keep it busy."""


@contextmanager
def by_length(clip: Any) -> Iterator[None]:
    """Meanwhile the text tower reads the captions of a batch in groups, where that is quicker: as it trains on a CPU.

    What comes after the end of a text changes nothing in a CLIP, whose texts are read from left to right.

    Args:
        clip: unwrapped; one that is compiled is left as it is.
    """
    tower = clip.text_model
    from_left = clip.config.model_type == "clip"
    if (
        not from_left
        or clip.logit_scale.device.type != "cpu"
        or hasattr(clip, "_orig_mod")
        or not trains(tower)
    ):
        yield
        return
    with in_place_of_forward(tower, _Grouped(tower)):
        yield


class _Grouped:
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
        pooled = torch.cat([one.pooler_output for one in made])
        return type(made[0])(pooler_output=pooled[order.argsort()])


def _returning(embedded: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda input: embedded


def groups_of(attention_mask: Tensor) -> tuple[Tensor, list[tuple[Tensor, int]]]:
    """The order of the captions by length, and that in groups, each with its longest's length.

    >>> order, groups = groups_of(torch.tensor([[1, 1, 1], [1, 1, 0]]))
    >>> order.tolist(), [(rows.tolist(), longest) for rows, longest in groups]
    ([1, 0], [([1, 0], 3)])

    Args:
        attention_mask: (T, tokens), 1 where there is text, which is on the left.
    """
    lengths = attention_mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    if int(lengths.min()) == int(lengths.max()):
        return order, [(order, int(lengths[0]))]
    return order, [(rows, int(lengths[rows[-1]])) for rows in torch.split(order, AT_ONCE)]
