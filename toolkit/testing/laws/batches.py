"""Laws of the collator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit.errors import PluginError
from toolkit.testing.docstrings import described, docstring_of
from toolkit.testing.subject import Subject

CORES = ("num_targets", "row_id", "work")
"""Keys of a batch that the contract itself describes."""


def one_row_and_many_are_collated(subject: Subject) -> None:
    """One row and many are collated; a batch says how many targets it has and which rows it is of."""
    subject.asked_for("toolkit_collator")
    for rows in ([subject.raw_rows[0]], subject.raw_rows):
        prepared = [subject.prepare(row) for row in rows]
        batch = subject.collator(prepared)
        if not isinstance(batch, Mapping):
            raise PluginError(
                f"the collator returned a {type(batch).__name__}", hint="return a dict of tensors"
            )
        _check_cores(batch, [row["row_id"] for row in rows])


def _check_cores(batch: Mapping[str, Any], row_ids: list[int]) -> None:
    missing = [key for key in ("num_targets", "row_id") if key not in batch]
    if missing:
        raise PluginError(
            f"the batch has no {' and no '.join(missing)} (it has: {', '.join(batch)})",
            hint='add "num_targets": how many targets the loss is summed over, and '
            '"row_id": torch.tensor([row["row_id"] for row in rows])',
        )
    found = [int(one) for one in batch["row_id"]]
    if found != row_ids:
        raise PluginError(
            f"row_id is {found}, the rows are {row_ids}", hint='torch.tensor([row["row_id"] for row in rows])'
        )
    if int(batch["num_targets"]) < 0 or int(batch["num_targets"]) != batch["num_targets"]:
        raise PluginError(
            f"num_targets is {batch['num_targets']}", hint="it is a count: 0 or more, and whole"
        )


def batch_is_as_described(subject: Subject) -> None:
    """The batch is what the collator's docstring says: each tensor's axes and type, and nothing that is not there."""
    subject.asked_for("toolkit_collator")
    import torch

    entries = described(docstring_of(subject.collator))
    for some in (subject.raw_rows[:1], subject.raw_rows):
        batch, rows = subject.batch(some), len(some)
        sizes: dict[str, int] = dict.fromkeys(("rows", "batch", "B"), rows)
        faults = [f"`{name}` is not described" for name in batch if name not in entries and name not in CORES]
        for name, entry in entries.items():
            if name in CORES:
                continue
            if name not in batch:
                faults += [] if entry.is_optional else [f"`{name}` is described, and not there"]
            elif isinstance(batch[name], torch.Tensor):
                faults += entry.differences(batch[name], sizes)
        if faults:
            raise PluginError(
                f"in a batch of {rows} row{'s' * (rows > 1)}: " + "; ".join(faults),
                hint="say it in the docstring, as in: `labels` (rows, tokens) int64; maybe `weights` (rows,) float32",
            )
