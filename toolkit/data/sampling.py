"""The order of training rows, a function of (seed, epoch) alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch.utils.data import Sampler

from toolkit.data.rows import UNCOUNTED, Key

BATCHES_SORTED = 50
"""So many batches of random rows are sorted together: more would differ less within, but also from epoch to epoch."""


class EpochSampler(Sampler[Key]):
    """All places of a split once, shuffled anew each epoch, as (epoch, place).

    Where several ranks take batches in turn, the last ones of an epoch are filled up with what counts for nothing, so
    that all ranks have as many batches, and about as many rows.
    """

    ranks, batch_size = 1, 1

    def __init__(self, size: int, seed: int, shuffle: bool = True) -> None:
        self.size, self.seed, self.shuffle, self.epoch = size, seed, shuffle, 0

    def shared_out(self, ranks: int, batch_size: int) -> Self:
        """`batch_size`: rows that a rank takes at once."""
        self.ranks, self.batch_size = ranks, batch_size
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        at_once = self.ranks * self.batch_size
        return self.size if self.ranks == 1 else -(-self.size // at_once) * at_once

    def __iter__(self) -> Iterator[Key]:
        epoch, order = self.epoch, self._order(self._generator()) if self.shuffle else range(self.size)
        rest = self.size % (self.ranks * self.batch_size) if self.ranks > 1 else 0
        whole, last = order[: self.size - rest], order[self.size - rest :]
        yield from ((epoch, place) for place in whole)
        for rank in range(self.ranks if rest else 0):
            own = last[rank * rest // self.ranks : (rank + 1) * rest // self.ranks]
            yield from ((epoch, place) for place in own)
            yield from ((epoch, UNCOUNTED) for _ in range(self.batch_size - len(own)))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)

    def _order(self, generator: torch.Generator) -> Sequence[int]:
        return array("q", torch.randperm(self.size, generator=generator).numpy().tobytes())


class LengthSampler(EpochSampler):
    """As `EpochSampler`, but the rows of a step are of about the same length, the longer ones first.

    The first step of each epoch has the longest row, so what does not fit the memory fails at once.
    """

    def __init__(self, lengths: Sequence[float], seed: int, batch_size: int) -> None:
        """`batch_size`: rows of an optimizer step, in all its micro-batches and on all ranks together."""
        super().__init__(len(lengths), seed)
        self.lengths, self.batch_size = lengths, batch_size

    def _order(self, generator: torch.Generator) -> Sequence[int]:
        order = array("q", super()._order(generator))
        longest = max(order, key=self.lengths.__getitem__)
        order.remove(longest)
        order.insert(0, longest)
        first, *others = self._batches(order)
        whole = [batch for batch in others if len(batch) == self.batch_size]
        shuffled = [whole[place] for place in torch.randperm(len(whole), generator=generator)]
        rest = [batch for batch in others if len(batch) < self.batch_size]
        return array("q", (place for batch in (first, *shuffled, *rest) for place in batch))

    def _batches(self, order: array[int]) -> list[array[int]]:
        """Batches of neighbours in length, out of one group of rows after the other."""
        size, group = self.batch_size, self.batch_size * BATCHES_SORTED
        groups = [order[start : start + group] for start in range(0, len(order), group)]
        by_length = [array("q", sorted(rows, key=self.lengths.__getitem__, reverse=True)) for rows in groups]
        return [rows[start : start + size] for rows in by_length for start in range(0, len(rows), size)]
