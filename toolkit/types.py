"""What passes between the core and the plugins."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]
"""One example, column by column. `row_id` (int) is its place in the split it comes from."""

Batch = dict[str, Any]
"""Collated rows. Two keys are the core's: `num_targets`, how many targets the loss is summed over, and `row_id`
(B,), int64. A third is optional: `work`, amounts processed (`{"audio seconds": 31.5}`), shown as a rate. The core adds
`columns`, where a plugin has a `Column(in_batch=True)`."""

Splits = Mapping[str, Sequence[Row]]
"""Raw rows by split: `train`, and where there are any `validation` and `test`."""


@dataclass(frozen=True)
class Column:
    """A column a plugin reads: its name in the plugin, and the names users usually give it.

    Attributes:
        holds_rows: it holds a list of rows, which take the place of the one that they are in: `[{"start": 0.0,
            "text": "..."}, ...]`. All its columns are theirs too, where they say nothing else.
        one_of: columns that share this name stand for one another: data needs one of them, `required` says nothing.
        keeps_together: rows that have the same value in it are not divided between train and validation.
        in_batch: its values come along in each batch, whichever plugin prepares and collates: `columns` has a list by
            its name, a value a row, None where a row has none. It may be a column that `toolkit_prepare` makes.
        names_file: texts in it are names of files, which are absolute paths when rows are prepared; a row that names
            one outside the data's folder cannot be used.
    """

    name: str
    usual: tuple[str, ...] = ()
    required: bool = True
    holds_rows: bool = False
    one_of: str | None = None
    keeps_together: bool = False
    in_batch: bool = False
    names_file: bool = False


@dataclass(frozen=True)
class Loss:
    """A loss before it is averaged, so that batches of any size add up exactly.

    Attributes:
        total: sum over the targets, in nats; a scalar with a gradient.
        count: how many targets were summed; equals the batch's `num_targets`.
        report: further numbers to log, by name.
        outputs: what the model returned, for metrics that read it.
    """

    total: Tensor
    count: Tensor | int
    report: Mapping[str, float] = field(default_factory=dict)
    outputs: Any = None


@dataclass(frozen=True)
class Scored:
    """One evaluated batch: its loss, and what the metrics need, from one forward."""

    loss: Loss
    batch: Batch
    predictions: Sequence[Any] = ()
    references: Sequence[Any] = ()


class Metric(ABC):
    """Counts kept over a stream of batches and divided once, so nothing grows with the data.

    `higher_is_better`: of all its values, or by their names. A class that has all four is a metric, whatever it
    descends from.
    """

    higher_is_better: bool | Mapping[str, bool]

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        has_all = all(hasattr(other, name) for name in ("update", "merge", "compute"))
        return True if cls is Metric and has_all else NotImplemented

    @abstractmethod
    def update(self, scored: Scored) -> None:
        """Add one batch."""

    @abstractmethod
    def merge(self, other: Self) -> None:
        """Add what another process counted."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The values by name, fractions as in the literature.

        It is also asked before any update, to learn the names: the values are nan then.
        """


@dataclass(frozen=True)
class Stage:
    """A part of a model whose output may be reused where nothing in it trains.

    Attributes:
        name: what notices call it, such as `encoder`.
        module: called with a batch of rows, each of whose outputs depends on that row alone.
        outputs: those of its outputs that are used; None: all.
    """

    name: str
    module: Any
    outputs: tuple[str, ...] | None = None
