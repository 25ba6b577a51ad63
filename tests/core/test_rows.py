from __future__ import annotations

from typing import Any

import pytest
import torch

from toolkit import DataError
from toolkit.data.rows import BadRow, CollateFetched, Fetched, PreparedRows, Quarantine
from toolkit.data.sampling import EpochSampler

BAD = {1, 2}


def prepare(row: dict[str, Any]) -> dict[str, Any]:
    if row["row_id"] in BAD:
        raise DataError(f"row {row['row_id']} is bad")
    return {"value": row["value"]}


def noise(row: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
    return {**row, "value": row["value"] + torch.rand((), generator=generator).item()}


def some_rows(count: int = 5, **kwargs: Any) -> PreparedRows:
    return PreparedRows("train", [{"value": 10 * i} for i in range(count)], range(count), prepare, **kwargs)


def test_training_takes_the_next_good_row() -> None:
    assert some_rows()[0, 1] == Fetched(
        {"value": 30, "row_id": 3}, (BadRow("train", 1, "row 1 is bad"), BadRow("train", 2, "row 2 is bad"))
    )


def test_evaluation_leaves_the_row_out() -> None:
    assert some_rows()[1] == Fetched(None, (BadRow("train", 1, "row 1 is bad"),))
    assert some_rows()[4] == Fetched({"value": 40, "row_id": 4})


def test_with_no_good_row_there_is_none() -> None:
    rows = PreparedRows("train", [{"value": 0}] * 2, [1, 2], prepare)
    assert rows[0, 1].row is None
    assert len(rows[0, 1].bad) == 2


def test_augmentation_depends_on_seed_epoch_and_row_alone() -> None:
    first = [some_rows(augment=[noise], seed=7)[epoch, 3].row["value"] for epoch in (0, 1)]
    again = [some_rows(augment=[noise], seed=7)[epoch, 3].row["value"] for epoch in (0, 1)]
    other = [some_rows(augment=[noise], seed=8)[epoch, 3].row["value"] for epoch in (0, 1)]
    assert first == again
    assert len({*first, *other}) == 4
    assert some_rows(augment=[noise], seed=7)[3].row == {"value": 30, "row_id": 3}


def test_collating_keeps_what_was_bad_aside() -> None:
    collate = CollateFetched(
        lambda rows: {"values": [row["value"] for row in rows], "num_targets": len(rows)}
    )
    rows = some_rows()
    assert collate([rows[0], rows[1], rows[4]]) == {
        "values": [0, 40], "num_targets": 2, "bad_rows": [BadRow("train", 1, "row 1 is bad")]
    }  # fmt: skip
    assert collate([rows[1]]) == {"bad_rows": [BadRow("train", 1, "row 1 is bad")]}
    assert "bad_rows" not in collate([rows[0]])


def bad(row_id: int, split: str = "train") -> BadRow:
    return BadRow(split, row_id, f"row {row_id} is bad")


def test_a_bad_row_counts_once() -> None:
    recorded: list[BadRow] = []
    quarantine = Quarantine({"train": 100, "test": 10}, 0.5, record=recorded.append)
    quarantine.add([bad(1), bad(1), bad(2)])
    quarantine.add([bad(1), bad(1, "test")])
    assert recorded == [bad(1), bad(2), bad(1, "test")]
    assert (quarantine.count("train"), quarantine.count("test")) == (2, 1)


def test_too_many_bad_rows_are_an_error() -> None:
    quarantine = Quarantine({"train": 100, "test": 10}, 0.02)
    quarantine.add([bad(1), bad(2)])
    with pytest.raises(DataError) as caught:
        quarantine.add([bad(3)])
    assert caught.value.message.startswith("3 of 110 rows cannot be used, more than a share of 0.02")
    assert "row 3 is bad" in caught.value.message


def test_with_no_good_row_even_a_generous_limit_is_an_error() -> None:
    quarantine = Quarantine({"train": 2}, 1.0)
    quarantine.add([bad(1)])
    with pytest.raises(DataError, match="no row of the train split can be used; the last: row 2 is bad"):
        quarantine.add([bad(2)])


def test_stopping_at_the_first_bad_row() -> None:
    with pytest.raises(DataError, match="row 1 is bad"):
        Quarantine({"train": 100}, 0.5, stop_at_first=True).add([bad(1)])


def test_the_order_of_rows_is_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(20, seed=3)
    first = list(sampler)
    assert sorted(place for _, place in first) == list(range(20))
    assert {epoch for epoch, _ in first} == {0}
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert [place for _, place in sampler] != [place for _, place in first]
    assert list(EpochSampler(20, seed=4)) != first
    assert list(EpochSampler(3, seed=3, shuffle=False)) == [(0, 0), (0, 1), (0, 2)]
