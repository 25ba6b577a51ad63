from __future__ import annotations

from typing import Any

import pytest

from toolkit import DataError
from toolkit.data.inspection import Inspection, inspect_rows, spread
from toolkit.data.rows import BadRow
from toolkit.data.sources import data_from_objects
from toolkit.recipe import DataSpec


def look(row: dict[str, Any]) -> dict[str, Any]:
    if row["value"] < 0:
        error = DataError(f"{row['value']} is below nought")
        error.facts = {"value": row["value"], "usable": "no"}
        raise error
    return {"value": row["value"], "usable": "yes"}


def splits(**values: list[int]) -> Any:
    return data_from_objects({name: [{"value": one} for one in part] for name, part in values.items()})


def inspection(bad: int, looked_at: int, size: int) -> Inspection:
    rows = tuple(BadRow("train", number, f"reason {number}") for number in range(bad))
    return Inspection({"train": size}, {"train": looked_at}, rows, 0, {})


def messages(made: Inspection, **data: Any) -> list[str]:
    return [fault.message for fault in made.faults(DataSpec(**data))]


def test_numbers_are_summed_up_and_texts_counted() -> None:
    found = inspect_rows(splits(train=[4, -1, 8, 2], test=[7]), look)
    assert found.facts == {
        "value": {"min": -1, "median": 4, "max": 8, "total": 20},
        "usable": {"yes": 4, "no": 1},
    }
    assert found.bad == (BadRow("train", 1, "-1 is below nought"),)
    assert found.as_dict() == {
        "splits": {"train": 4, "test": 1},
        "total": 5,
        "looked_at": 5,
        "unusable": 1,
        "unreadable": 0,
        "reasons": ["-1 is below nought"],
    }


def test_a_sample_is_spread_over_all_rows() -> None:
    assert list(spread({"train": 8, "test": 4}, 3)) == [("train", 0), ("train", 4), ("test", 0)]
    assert list(spread({"train": 2, "none": 0, "test": 1}, 9)) == [("train", 0), ("train", 1), ("test", 0)]
    assert list(spread({}, 9)) == []
    found = inspect_rows(splits(train=list(range(10)), test=[20, 21]), look, most=4)
    assert found.facts["value"] == {"min": 0, "median": 4.5, "max": 9, "total": 18}
    assert (found.looked_at, found.sizes) == ({"train": 4, "test": 0}, {"train": 10, "test": 2})


def test_rows_that_cannot_even_be_read_are_bad() -> None:
    class Torn(list[dict[str, Any]]):
        def __getitem__(self, index: Any) -> Any:
            if index == 1:
                raise DataError("torn")
            return super().__getitem__(index)

    rows = data_from_objects({"train": [{"value": 1}] * 3})
    source = rows["train"].source
    torn = Torn(source.row(place) for place in range(3))
    object.__setattr__(source, "row", torn.__getitem__)
    found = inspect_rows(rows, None)
    assert ([one.reason for one in found.bad], found.unreadable) == (["torn"], 1)


def test_too_many_bad_rows() -> None:
    assert messages(inspection(1, 100, 100)) == []
    assert messages(inspection(2, 100, 100)) == [
        "2 of 100 rows cannot be used, more than a share of 0.01\n  reason 0\n  reason 1"
    ]
    [fault] = inspection(13, 1000, 1000).faults(DataSpec())
    assert fault.hint == "mend the rows, or allow more: --set data.max_bad_fraction=0.02"
    assert messages(inspection(50, 100, 100), max_bad_fraction=0.5) == []


def test_a_sample_that_may_mislead_lets_the_run_begin() -> None:
    """Of 1000 rows: a share of 0.02 has a standard error of 0.0044; less three of them it is below 0.01."""
    assert messages(inspection(20, 1000, 50_000)) == []
    [message] = messages(inspection(40, 1000, 50_000))
    assert message.startswith("40 of 1000 rows looked at cannot be used, more than a share of 0.01")


def test_what_ends_a_run_whatever_the_share() -> None:
    assert messages(inspection(1, 100, 100), on_error="stop") == ["reason 0"]
    assert messages(inspection(0, 100, 100), on_error="stop") == []
    assert messages(inspection(3, 3, 3), max_bad_fraction=1.0) == [
        "no row of the train split can be used; the last: reason 2"
    ]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_an_empty_inspection_finds_nothing(share: float) -> None:
    assert messages(inspection(0, 0, 0), max_bad_fraction=share) == []


def test_what_is_noted_of_rows_is_told() -> None:
    rows = data_from_objects([{"value": number} for number in range(3)])
    found = inspect_rows(rows, lambda row: {"noted": "large"} if row["value"] > 0 else {})
    assert found.notices() == ["2 of 3 rows looked at: large"]
    assert inspect_rows(rows, lambda row: {"value": 1.0}).notices() == []
