"""For any task: its loss in bits, and a ledger with a line for each metric of each run.

An extension brings no model, it is named beside a plugin that does:
`toolkit run --task T --plugin my-extension`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit import Metric, Run, hookimpl

from toolkit_my_extension.parts import BitsPerTarget, note

toolkit_contract = 1


@dataclass(frozen=True)
class MyExtensionSettings:
    """The section `my-extension` of a recipe.

    Attributes:
        ledger: a file in the folder that holds the runs' folders.
    """

    ledger: str = "ledger.csv"


@hookimpl
def toolkit_settings() -> type:
    return MyExtensionSettings


@hookimpl
def toolkit_metrics() -> Sequence[Metric]:
    return [BitsPerTarget()]


@hookimpl
def toolkit_run_finished(run: Run) -> None:
    note(run, run.folder.parent / run.recipe.settings(MyExtensionSettings).ledger)
