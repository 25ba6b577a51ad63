"""The laws, from cheap to costly: a function each, whose docstring states it and which raises where it is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from toolkit.testing.laws import contract
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


LAWS = (
    Law(contract.hooks_are_spelt_right),
    Law(contract.imports_nothing_heavy, needs=("hooks_are_spelt_right",)),
    Law(contract.opens_its_task, needs=("hooks_are_spelt_right",)),
)
