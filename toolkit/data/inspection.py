"""Rows looked at before a run: how many cannot be used, and what can be said of them at little cost."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from statistics import median
from typing import Any

from toolkit.answers import expected_facts
from toolkit.data.rows import BadRow
from toolkit.data.splits import Rows
from toolkit.errors import DataError
from toolkit.recipe import DataSpec
from toolkit.types import Row

MOST_ROWS = 1000
Facts = Mapping[str, float | str]


@dataclass(frozen=True)
class Inspection:
    """What became of the rows that were looked at.

    Attributes:
        sizes: rows by split.
        looked_at: how many of them were looked at, by split.
        bad: those that cannot be used.
        unreadable: how many of them cannot even be read, as where a file is missing; there are no facts of these.
        facts: of numbers `min`, `median`, `max` and `total`, of texts how often each came.
    """

    sizes: Mapping[str, int]
    looked_at: Mapping[str, int]
    bad: tuple[BadRow, ...]
    unreadable: int
    facts: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        total, looked_at = sum(self.sizes.values()), sum(self.looked_at.values())
        return {
            "splits": dict(self.sizes),
            "total": total,
            "looked_at": looked_at,
            "unusable": len(self.bad),
            "unreadable": self.unreadable,
            "reasons": [one.reason for one in self.bad[:5]],
        }

    def notices(self) -> list[str]:
        """What is worth telling before a run: the texts of the fact `noted`, each with its number of rows."""
        looked_at = sum(self.looked_at.values())
        return [
            f"{count:.0f} of {looked_at} rows looked at: {text}"
            for text, count in self.facts.get("noted", {}).items()
        ]

    def faults(self, data: DataSpec) -> list[DataError]:
        """What would end a run on these rows, by the recipe's limits on bad ones.

        Where only a sample was looked at, its share counts less three standard errors: a run that may well stay
        below the limit is let through.
        """
        if self.bad and data.on_error == "stop":
            hint = "mend the row, or put bad rows aside: --set data.on_error=quarantine"
            return [DataError(self.bad[0].reason, hint)]
        return self._empty_splits() or self._too_many(data.max_bad_fraction)

    def _empty_splits(self) -> list[DataError]:
        bad = Counter(one.split for one in self.bad)
        last = {one.split: one.reason for one in self.bad}
        return [
            DataError(
                f"no row of the {split} split can be used; the last: {last[split]}",
                hint="mend its rows; a split needs at least one that can be used",
            )
            for split, size in self.sizes.items()
            if size and bad[split] == size
        ]

    def _too_many(self, allowed: float) -> list[DataError]:
        looked_at = sum(self.looked_at.values())
        share = len(self.bad) / max(looked_at, 1)
        is_sample = looked_at < sum(self.sizes.values())
        margin = 3 * sqrt(share * (1 - share) / looked_at) if is_sample else 0.0
        if share - margin <= allowed:
            return []
        reasons = "".join(f"\n  {one.reason}" for one in self.bad[:5])
        rows = f"{looked_at} rows looked at" if is_sample else f"{looked_at} rows"
        return [
            DataError(
                f"{len(self.bad)} of {rows} cannot be used, more than a share of {allowed:g}{reasons}",
                hint=f"mend the rows, or allow more: --set data.max_bad_fraction={_rounded_up(share)}",
            )
        ]


def inspect_rows(
    splits: Mapping[str, Rows], look: Callable[[Row], Facts] | None, most: int = MOST_ROWS
) -> Inspection:
    """Look at up to `most` rows, evenly spread over all splits.

    Args:
        look: `toolkit_inspect`'s answer; without one the rows are only read.
    """
    sizes = {name: len(rows) for name, rows in splits.items()}
    chosen = list(spread(sizes, most))
    bad: list[BadRow] = []
    facts: dict[str, list[float | str]] = defaultdict(list)
    unreadable = 0
    for split, index in chosen:
        row = _row_or_error(splits[split], index)
        found = row if isinstance(row, DataError) else _facts_or_error(row, look)
        unreadable += isinstance(row, DataError)
        if isinstance(found, DataError):
            bad.append(BadRow.of(split, splits[split].ids[index], found))
        for name, value in (found.facts if isinstance(found, DataError) else found).items():
            facts[name].append(value)
    looked_at = Counter(split for split, _ in chosen)
    return Inspection(
        sizes,
        {name: looked_at[name] for name in splits},
        tuple(bad),
        unreadable,
        {name: _summary(values) for name, values in facts.items()},
    )


def spread(sizes: Mapping[str, int], most: int) -> Iterator[tuple[str, int]]:
    """At most `most` places (split, index), at even distances in all splits laid end to end.

    >>> list(spread({"train": 4, "test": 2}, 3))
    [('train', 0), ('train', 2), ('test', 0)]
    """
    names, ends, total = list(sizes), list(accumulate(sizes.values())), sum(sizes.values())
    for number in range(count := min(most, total)):
        place = number * total // count
        split = bisect_right(ends, place)
        yield names[split], place - (ends[split - 1] if split else 0)


def _row_or_error(rows: Rows, index: int) -> Row | DataError:
    try:
        return {**rows[index], "row_id": rows.ids[index]}
    except DataError as error:
        return error


def _facts_or_error(row: Row, look: Callable[[Row], Facts] | None) -> Facts | DataError:
    try:
        return expected_facts(look(row)) if look is not None else {}
    except DataError as error:
        return error


def _summary(values: list[float | str]) -> dict[str, float]:
    if any(isinstance(value, str) for value in values):
        return dict(Counter(str(value) for value in values).most_common())
    numbers = [float(value) for value in values]
    return {"min": min(numbers), "median": median(numbers), "max": max(numbers), "total": sum(numbers)}


def _rounded_up(share: float) -> float:
    """The share in hundredths, rounded up, as something to type."""
    return min(1.0, -(-share * 100 // 1) / 100)
