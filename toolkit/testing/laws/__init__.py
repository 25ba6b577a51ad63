"""The laws, from cheap to costly: a function each, whose docstring states it and which raises where it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.testing.laws import batches, contract, losses, measuring, rows, runs
from toolkit.testing.subject import Subject


@dataclass(frozen=True)
class Law:
    """One law: `check` raises `PluginError` where it is broken, `DoesNotApply` where it says nothing of the plugin.

    Attributes:
        needs: names of laws without which it cannot be tried.
    """

    check: Callable[[Subject], None]
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.check.__name__

    @property
    def sentence(self) -> str:
        return (self.check.__doc__ or "").strip().splitlines()[0]


_OPEN = ("opens_its_task",)
_COLLATED = ("one_row_and_many_are_collated",)
_STEADY = ("rows_are_prepared_alike", "augmentation_is_the_generators", *_COLLATED)
_ENDED = ("runs_to_its_end",)
_SUMMED = ("loss_counts_the_targets", "loss_adds_up")

LAWS = (
    Law(contract.hooks_are_spelt_right),
    Law(contract.imports_nothing_heavy, needs=("hooks_are_spelt_right",)),
    Law(contract.opens_its_task, needs=("hooks_are_spelt_right",)),
    Law(rows.rows_are_prepared_alike, needs=_OPEN),
    Law(rows.augmentation_is_the_generators, needs=_OPEN),
    Law(batches.one_row_and_many_are_collated, needs=_OPEN),
    Law(rows.bad_rows_are_answered, needs=_COLLATED),
    Law(rows.odd_inputs_are_answered, needs=_OPEN),
    Law(batches.batch_is_as_described, needs=_COLLATED),
    Law(losses.loss_counts_the_targets, needs=_COLLATED),
    Law(losses.loss_adds_up, needs=_STEADY),
    Law(measuring.metrics_add_up, needs=_STEADY),
    Law(runs.runs_to_its_end, needs=_COLLATED),
    Law(losses.accumulation_changes_nothing, needs=(*_STEADY, *_SUMMED, *_ENDED)),
    Law(runs.saved_is_what_was_trained, needs=(*_STEADY, *_ENDED)),
    Law(runs.resumed_is_never_stopped, needs=(*_STEADY, *_ENDED)),
    Law(losses.ranks_change_nothing, needs=("accumulation_changes_nothing",)),
)
