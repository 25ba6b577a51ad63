"""Rows made ready one at a time, with those that cannot be used set aside."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from toolkit.answers import expected_batch, expected_number, expected_row
from toolkit.data.columns import with_columns
from toolkit.errors import DataError
from toolkit.notices import one_line
from toolkit.types import Batch, Row

Key = tuple[int, int]
"""(epoch, place in the split): all that a training row depends on."""
UNCOUNTED = -1
"""The place of what fills a batch up and counts for nothing."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    split: str
    row_id: int
    reason: str

    @classmethod
    def of(cls, split: str, row_id: int, error: DataError) -> BadRow:
        """The row, with its error on one line of some length, for the row itself speaks in it."""
        return cls(split, row_id, one_line(error.message))


@dataclass(frozen=True)
class Fetched:
    """What became of one row that was asked for: the row, or what was found wrong on the way to it."""

    row: Row | None
    bad: tuple[BadRow, ...] = ()
    counts: bool = True


class PreparedRows(Dataset[Fetched]):
    """A split's rows, prepared when asked for and never kept.

    In training a bad row is replaced by the next good one, so that batches keep their size and the order of a run
    depends on nothing but (seed, epoch). In evaluation it is left out, so that no row counts twice.
    """

    def __init__(
        self,
        split: str,
        rows: Sequence[Row],
        row_ids: Sequence[int],
        prepare: Callable[[Row], Row] | None = None,
        augment: Sequence[Callable[[Row, torch.Generator], Row]] = (),
        seed: int = 0,
    ) -> None:
        self.split, self.rows, self.row_ids = split, rows, row_ids
        self.prepare, self.augment, self.seed = prepare, tuple(augment), seed

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self, measure: Callable[[Row], float]) -> array[float]:
        """The length of each raw row; 0 where it cannot be told."""
        return array("d", (self._length(place, measure) for place in range(len(self))))

    def _length(self, place: int, measure: Callable[[Row], float]) -> float:
        try:
            length = measure({**self.rows[place], "row_id": self.row_ids[place]})
        except DataError:
            return 0.0
        return float(expected_number(length, "toolkit_row_length", "a number"))

    def still_bad(self, row_ids: Collection[int]) -> set[int]:
        """Which of these rows cannot be used now."""
        return {
            row_id
            for place, row_id in enumerate(self.row_ids)
            if row_id in row_ids and isinstance(self._good_or_bad(place), BadRow)
        }

    def __getitem__(self, key: int | Key) -> Fetched:
        if not isinstance(key, tuple):
            row = self._good_or_bad(key)
            return Fetched(None, (row,)) if isinstance(row, BadRow) else Fetched(row)
        epoch, place = key
        bad: list[BadRow] = []
        for offset in range(len(self)):
            row = self._good_or_bad((max(place, 0) + offset) % len(self))
            if not isinstance(row, BadRow):
                return Fetched(self._augmented(row, epoch), tuple(bad), counts=place != UNCOUNTED)
            bad.append(row)
        return Fetched(None, tuple(bad))

    def _good_or_bad(self, place: int) -> Row | BadRow:
        row_id = self.row_ids[place]
        try:
            row = {**self.rows[place], "row_id": row_id}
            if self.prepare is None:
                return row
            return {**expected_row(self.prepare(row), "toolkit_prepare"), "row_id": row_id}
        except DataError as error:
            return BadRow.of(self.split, row_id, error)

    def _augmented(self, row: Row, epoch: int) -> Row:
        if self.augment:
            generator = torch.Generator().manual_seed(_seed_of(self.seed, epoch, row["row_id"]))
            for change in self.augment:
                row = {**expected_row(change(row, generator), "toolkit_augment"), "row_id": row["row_id"]}
        return row


class CollateFetched:
    """The plugin's collator for rows as `PreparedRows` gives them; what was bad travels in `bad_rows`.

    A batch of nothing but bad rows holds only `bad_rows`; one of nothing that counts has a row, and no targets.
    """

    def __init__(self, collate: Callable[[list[Row]], Batch], in_batch: Sequence[str] = ()) -> None:
        """`in_batch`: see `with_columns`."""
        self.collate, self.in_batch = collate, tuple(in_batch)

    def __call__(self, fetched: Sequence[Fetched]) -> Batch:
        found = [one for one in fetched if one.row is not None]
        counted = [one for one in found if one.counts]
        rows = [one.row for one in counted or found[:1] if one.row is not None]
        bad = [bad for one in fetched for bad in one.bad]
        batch = with_columns(expected_batch(self.collate(rows)), rows, self.in_batch) if rows else {}
        if rows and not counted:
            batch |= {"num_targets": 0, "work": {}}
        return {**batch, "bad_rows": bad} if bad else batch


class Quarantine:
    """Bad rows met so far, each once, and the limit on how many there may be in all splits together."""

    def __init__(
        self,
        sizes: dict[str, int],
        max_bad_fraction: float,
        stop_at_first: bool = False,
        record: Callable[[BadRow], None] = lambda bad: None,
    ) -> None:
        """`sizes`: rows by split; `record`: called once for each bad row."""
        self.sizes, self.max_bad_fraction, self.stop_at_first, self.record = (
            sizes,
            max_bad_fraction,
            stop_at_first,
            record,
        )
        self.found: dict[tuple[str, int], BadRow] = {}
        self.counts: Counter[str] = Counter()

    def add(self, bad: Sequence[BadRow]) -> None:
        """Note bad rows.

        Raises:
            DataError: they are a larger share of all rows than `max_bad_fraction`, a split has no good row, or
                the first shall stop the run.
        """
        for one in bad:
            if self.note(one):
                self.record(one)
                self._judge(one)

    def note(self, bad: BadRow) -> bool:
        """Keep a bad row, without a judgement; whether it is new."""
        if (bad.split, bad.row_id) in self.found:
            return False
        self.found[bad.split, bad.row_id] = bad
        self.counts[bad.split] += 1
        return True

    def judge(self) -> None:
        """Raise `DataError` where those that were noted would have ended the run as they were added."""
        for latest in {one.split: one for one in self.found.values()}.values():
            self._judge(latest)

    def count(self, split: str) -> int:
        return self.counts[split]

    def _judge(self, latest: BadRow) -> None:
        if self.stop_at_first:
            raise DataError(
                latest.reason, hint="mend the row, or put bad rows aside: --set data.on_error=quarantine"
            )
        if self.count(latest.split) == self.sizes[latest.split]:
            raise DataError(
                f"no row of the {latest.split} split can be used; the last: {latest.reason}",
                hint="the run's quarantine.jsonl lists them",
            )
        bad, size = len(self.found), sum(self.sizes.values())
        if bad > self.max_bad_fraction * size:
            reasons = "".join(f"\n  {one.reason}" for one in list(self.found.values())[-5:])
            share = f"{self.max_bad_fraction:g}"
            raise DataError(
                f"{bad} of {size} rows cannot be used, more than a share of {share}{reasons}",
                hint="mend the rows (a run lists them in quarantine.jsonl), or allow more: "
                "--set data.max_bad_fraction=0.1",
            )


def _seed_of(*parts: int) -> int:
    """One 63-bit seed from several numbers; near parts give seeds that have nothing in common."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
