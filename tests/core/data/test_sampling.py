"""Rows of about the same length together, as a function of seed and epoch alone."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from toolkit.data.sampling import LengthSampler


def steps(sampler: LengthSampler, size: int) -> list[list[float]]:
    """The lengths of the rows of each step."""
    places = [place for _, place in sampler]
    assert sorted(places) == [*range(len(sampler))]
    return [
        [sampler.lengths[place] for place in places[at : at + size]] for at in range(0, len(places), size)
    ]


def lengths(count: int) -> list[float]:
    generator = random.Random(1)
    return [float(generator.randint(1, 1000)) for _ in range(count)]


@pytest.mark.parametrize(("count", "size"), [(1, 4), (3, 4), (8, 4), (403, 4), (1000, 3), (64, 64)])
def test_every_row_once_and_the_longest_first(count: int, size: int) -> None:
    sampler = LengthSampler(lengths(count), seed=3, batch_size=size)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        assert {key[0] for key in sampler} == {epoch}
        found = steps(sampler, size)
        assert max(found[0]) == max(sampler.lengths)
        assert all(len(step) == size for step in found[:-1])
        assert all(step == sorted(step, reverse=True) for step in found)


def test_little_is_padding() -> None:
    """By chance a step of 8 rows is padded to nearly the longest of them; here its rows are alike."""
    sampler = LengthSampler(lengths(800), seed=3, batch_size=8)
    padded = sum(8 * max(step) for step in steps(sampler, 8))
    assert padded < 1.05 * sum(sampler.lengths)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthSampler(lengths(100), seed, batch_size=4)
        sampler.set_epoch(epoch)
        return [place for _, place in sampler]

    assert order(3, 1) == order(3, 1)
    assert order(3, 0) != order(3, 1) != order(4, 1)


def test_steps_come_in_no_order_of_length() -> None:
    firsts = [step[0] for step in steps(LengthSampler(lengths(800), seed=3, batch_size=8), 8)]
    falls = sum(one >= two for one, two in pairwise(firsts))
    assert 0.3 < falls / len(firsts) < 0.7
