"""Attention in a sequence of several rows that costs what the rows cost.

transformers tells the rows apart by a mask over the whole sequence, so the work grows with the square of its length.
Here the same attention is asked for row by row, each with its own square of that mask.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from toolkit import Batch

_NAME = "row_lengths"


def segments(model: Any, batch: Batch) -> dict[str, list[list[int]]]:
    """What to give a model's forward beside a packed batch: the lengths of the rows in each sequence.

    Nothing where rows are not packed, or the model would not hand it on to its attention.
    """
    takes = inspect.signature(model.forward).parameters.values()
    if "position_ids" not in batch or not any(one.kind is one.VAR_KEYWORD for one in takes):
        return {}
    width = batch["position_ids"].shape[1]
    starts: list[list[int]] = [[] for _ in batch["position_ids"]]
    for sequence, place in (batch["position_ids"] == 0).nonzero().tolist():
        starts[sequence].append(place)
    return {
        _NAME: [[stop - start for start, stop in zip(one, [*one[1:], width], strict=True)] for one in starts]
    }


def by_rows(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' sdpa attention; of the rows in a sequence one after the other, where their lengths are given.

    Args:
        query, key, value: (sequences, heads, tokens, size).
        attention_mask: (sequences, 1, tokens, tokens), or none where every sequence is one row.
    Returns:
        (sequences, tokens, heads, size).
    """
    lengths: Sequence[list[int]] = kwargs.pop(_NAME, None) or ()
    biased = kwargs.get("position_bias") is not None
    if biased or all(len(one) == 1 for one in lengths):
        return sdpa_attention_forward(module, query, key, value, attention_mask, *args, **kwargs)  # type: ignore[no-any-return]
    done = []
    for sequence, one in enumerate(lengths):
        parts = [torch.split(part[sequence, None], one, dim=2) for part in (query, key, value)]
        rows = zip(*parts, _squares(attention_mask, sequence, one), strict=True)
        done.append(
            torch.cat([sdpa_attention_forward(module, *row, *args, **kwargs)[0] for row in rows], dim=1)
        )
    return torch.cat(done), None


def _squares(mask: Tensor | None, sequence: int, lengths: Sequence[int]) -> Iterator[Tensor | None]:
    start = 0
    for length in lengths:
        stop = start + length
        yield None if mask is None else mask[sequence, None, :, start:stop, start:stop]
        start = stop


AttentionInterface.register("sdpa", by_rows)
