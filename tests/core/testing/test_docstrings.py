"""What is read in a collator's docstring, and how a tensor is held against it."""

from __future__ import annotations

import functools

import pytest
import torch

from toolkit.testing.docstrings import Described, described, docstring_of

DOC = """`ids`, `mask` (rows, tokens) int64; `labels` (rows, tokens), int64, padding -100; `texts`, as they are, and
maybe `weights` (rows,) float32; `scale` () float64."""


def test_keys_axes_and_types() -> None:
    assert list(described(DOC).values()) == [
        Described("ids", ("rows", "tokens"), "int64", False),
        Described("mask", ("rows", "tokens"), "int64", False),
        Described("labels", ("rows", "tokens"), "int64", False),
        Described("texts", None, None, False),
        Described("weights", ("rows",), "float32", True),
        Described("scale", (), "float64", False),
    ]


@pytest.mark.parametrize(
    ("text", "shape", "dtype", "problem"),
    [
        ("`x` (rows, 3) int64", (2, 3), torch.int64, None),
        ("`x` (rows, 3) int64", (2, 4), torch.int64, "`x` has the shape (2, 4), and 3 is 3"),
        ("`x` (rows, 3) int64", (5, 3), torch.int64, "`x` has the shape (5, 3), and rows is 2"),
        ("`x` (rows, 3) int64", (2,), torch.int64, "`x` has the shape (2,), not (rows, 3)"),
        ("`x` (rows, width) int64", (2, 9), torch.int32, "`x` is int32, not int64"),
        ("`x` (rows, width)", (2, 9), torch.int32, "`x` is int32, which is not said"),
        (
            "`x`, what it is",
            (2, 9),
            torch.int32,
            "`x` is a tensor, and its axes are not said: it has the shape (2, 9)",
        ),
        ("`x` (rows, 2 * rows) bool", (2, 4), torch.bool, None),
        ("`x` (side, side) bool", (4, 4), torch.bool, None),
        ("`x` (side, side) bool", (4, 5), torch.bool, "`x` has the shape (4, 5), and side is 4"),
    ],
)
def test_tensors(text: str, shape: tuple[int, ...], dtype: torch.dtype, problem: str | None) -> None:
    found = list(described(text)["x"].differences(torch.zeros(shape, dtype=dtype), {"rows": 2}))
    assert found == ([] if problem is None else [problem])


def test_where_it_is_read() -> None:
    class Collate:
        """`of_class` (rows,) int64."""

        def __call__(self, rows: list[int], more: int = 0) -> None:
            """Collate.

            Args:
                rows: with `audio` (samples,) float32.
            Returns:
                `of_call` (rows,) int64.
            Raises:
                DataError: `nothing` (rows,) int64.
            """

    def collate(rows: list[int]) -> None:
        """`of_function` (rows,) int64.

        Args:
            rows: with `audio` (samples,) float32.
        """

    assert set(described(docstring_of(Collate()))) == {"of_class", "of_call"}
    assert set(described(docstring_of(collate))) == {"of_function"}
    assert set(described(docstring_of(functools.partial(Collate(), more=1)))) == {"of_class", "of_call"}
    assert described(docstring_of(lambda rows: None)) == {}
