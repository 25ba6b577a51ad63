"""Views of rows: dividing train, limits, ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.data.objects import data_from_objects
from toolkit.data.splits import Rows, limited, with_validation
from toolkit.errors import DataError, RecipeError


def numbered(count: int) -> Rows:
    return data_from_objects([{"n": number} for number in range(count)])["train"]


fractions = st.floats(0.0, 1.0, exclude_max=True)


@given(count=st.integers(1, 200), fraction=fractions, seed=st.integers(-3, 2**40))
def test_dividing_is_a_partition_in_order_and_repeats(count: int, fraction: float, seed: int) -> None:
    train = numbered(count)
    parts = with_validation({"train": train}, fraction, seed)
    again = with_validation({"train": numbered(count)}, fraction, seed)

    ids = {name: list(rows.ids) for name, rows in parts.items()}
    assert sorted(ids["train"] + ids.get("validation", [])) == list(range(count))
    assert all(part == sorted(part) for part in ids.values())
    assert all(part for part in ids.values())
    assert ids == {name: list(rows.ids) for name, rows in again.items()}
    assert all([row["n"] for row in rows] == ids[name] for name, rows in parts.items())


@pytest.mark.parametrize(
    ("count", "fraction", "aside"),
    [
        (100, 0.1, 10),
        (25, 0.1, 3),  # 2.5
        (24, 0.1, 2),  # 2.4
        (50, 0.29, 15),  # 14.5, though 50 * 0.29 in floats is less
        (2, 0.01, 1),
        (2, 0.99, 1),
        (3, 0.99, 2),
    ],
)
def test_how_many_rows_are_set_aside(count: int, fraction: float, aside: int) -> None:
    parts = with_validation({"train": numbered(count)}, fraction, 0)
    assert (len(parts["train"]), len(parts["validation"])) == (count - aside, aside)


def test_seeds_and_runs_differ_and_agree() -> None:
    def aside(seed: int) -> list[int]:
        return list(with_validation({"train": numbered(1000)}, 0.01, seed)["validation"].ids)

    assert aside(0) == [30, 62, 77, 143, 174, 197, 578, 598, 927, 990], "a resumed run would see other rows"
    assert aside(0) != aside(1)


def photographs(names: str) -> Rows:
    return data_from_objects([{"photo": name, "n": number} for number, name in enumerate(names)])["train"]


@given(names=st.text("abcdefgh", min_size=2, max_size=40), fraction=fractions, seed=st.integers(0, 100))
def test_rows_that_belong_together_are_not_divided(names: str, fraction: float, seed: int) -> None:
    parts = with_validation({"train": photographs(names)}, fraction, seed, ["photo"])
    found = {name: {row["photo"] for row in rows} for name, rows in parts.items()}
    assert sorted(row["n"] for rows in parts.values() for row in rows) == list(range(len(names)))
    assert not found["train"] & found.get("validation", set())
    assert ("validation" in parts) == (len({*names}) > 1 and fraction > 0)


def test_where_no_rows_belong_together_the_same_are_set_aside() -> None:
    """A run that was begun before shall find its rows again."""
    parts = [
        with_validation({"train": numbered(1000)}, 0.01, 0, columns)["validation"].ids
        for columns in ((), ["n"])
    ]
    assert parts[0] == parts[1]


def test_bytes_are_compared_by_what_is_in_them() -> None:
    rows = [{"photo": {"bytes": data, "path": None}} for data in (b"a", b"b", b"a", b"c")]
    parts = with_validation({"train": data_from_objects(rows)["train"]}, 0.25, 0, ["photo"])
    assert {0, 2} <= {*parts["train"].ids} or {0, 2} <= {*parts["validation"].ids}


def test_what_is_there_is_not_divided() -> None:
    splits = {"train": numbered(10), "validation": numbered(2), "test": numbered(3)}
    assert with_validation(splits, 0.5, 0) == splits
    assert with_validation({"train": numbered(10)}, 0, 0).keys() == {"train"}
    assert with_validation({"train": numbered(1)}, 0.5, 0).keys() == {"train"}


def test_a_test_split_is_no_validation_split() -> None:
    parts = with_validation({"train": numbered(10), "test": numbered(3)}, 0.2, 0)
    assert {name: len(rows) for name, rows in parts.items()} == {"train": 8, "validation": 2, "test": 3}


@pytest.mark.parametrize("fraction", [1.0, -0.1, 2, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction: float) -> None:
    with pytest.raises(
        RecipeError, match=r"^data\.validation_fraction: expected at least 0 and less than 1, found"
    ):
        with_validation({"train": numbered(4)}, fraction, 0)


def test_dividing_needs_a_train_split() -> None:
    with pytest.raises(DataError, match=r"has no split 'train' \(splits: test\)"):
        with_validation({"test": numbered(4)}, 0.1, 0)


def test_limits_keep_the_first_rows_and_their_ids() -> None:
    splits = limited(with_validation({"train": numbered(100)}, 0.5, 3), 4)
    whole = with_validation({"train": numbered(100)}, 0.5, 3)
    for name, rows in splits.items():
        assert list(rows.ids) == list(whole[name].ids)[:4]
        assert [row["n"] for row in rows] == list(rows.ids)
    assert limited(whole, None) == whole or limited(whole, None).keys() == whole.keys()
    assert len(limited(whole, 1000)["train"]) == 50


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(RecipeError, match=rf"^data\.limit: expected at least 1, found {limit}"):
        limited({"train": numbered(3)}, limit)


def test_rows_are_a_sequence() -> None:
    rows = numbered(5)
    assert rows[-1] == {"n": 4}
    assert [row["n"] for row in rows[3:0:-1]] == [3, 2, 1]
    assert isinstance(rows[1:], Rows)
    assert rows[1:].ids == range(1, 5)
    assert rows[2:].place(0) == "train, row 3"
    with pytest.raises(IndexError):
        rows[5]
