"""The errors a user can mend: each says what happened, what was expected and what to do."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Self


class ToolkitError(Exception):
    """A fault in what the user gave, with a hint that says how to mend it.

    Several faults found together travel as one error: the first, with the others in `more`.
    """

    exit_status = 2

    def __init__(self, message: str, hint: str | None = None, more: Sequence[ToolkitError] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.more = tuple(more)

    @classmethod
    def gather(cls, faults: Sequence[ToolkitError]) -> Self:
        """All `faults` (at least one) as one error of this class; those gathered before count once.

        Its cause is the first that one of them has, so that a traceback leads there.
        """
        first, *rest = dict.fromkeys(one for fault in faults for one in fault.all)
        gathered = cls(first.message, first.hint, more=rest)
        gathered.__cause__ = next((one.__cause__ for one in [first, *rest] if one.__cause__), None)
        return gathered

    @property
    def all(self) -> tuple[ToolkitError, ...]:
        return (self, *self.more)

    def __str__(self) -> str:
        return "\n".join(
            fault.message + (f" (hint: {fault.hint})" if fault.hint else "") for fault in self.all
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message, self.hint, self.more)


class RecipeError(ToolkitError):
    """The recipe, or an option of the command line, is wrong."""


class PluginError(ToolkitError):
    """A plugin or task is missing, cannot be loaded, or breaks the hook contract."""


class DataError(ToolkitError):
    """A row or a data source cannot be used.

    Attributes:
        facts: what `toolkit_inspect` had found out about the row by then.
    """

    facts: Mapping[str, float | str] = MappingProxyType({})


class ModelError(ToolkitError):
    """A model cannot be loaded, adapted or saved as asked."""


class CheckpointError(ToolkitError):
    """A run folder or checkpoint cannot be used."""


class RunError(ToolkitError):
    """A run cannot go on, though what it was given is right: the disk is full, or the loss is NaN or infinite."""

    exit_status = 1


class Interrupted(BaseException):
    """A signal ended what was going on; not a fault, so no `except Exception` swallows it.

    Attributes:
        signal_number: the signal's.
        exit_status: 128 plus the signal's number, as shells have it.
        folder: the run that can be resumed, if it was one.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number
        self.folder: str | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.signal_number,)


# ---- their words ---------------------------------------------------------------------------------------


def first_line(error: BaseException) -> str:
    """Of what an exception says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def in_one_line(error: BaseException) -> str:
    """Its kind and the first line of what it says."""
    text, kind = first_line(error), type(error).__name__
    return kind if text == kind else f"{kind}: {text}"


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A hint with the nearest of `names`, or None when nothing is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean '{near[0]}'?" if near else None
