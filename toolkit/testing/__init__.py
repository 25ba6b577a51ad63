"""What tests of a plugin lean on: its contract, law by law, and the command line in a folder of the test's own.

    from toolkit.testing import check_plugin

    def test_it_keeps_the_contract():
        check_plugin("vit")

    def test_it_trains(project):
        project.run("run", "--task", "vit", "--output-dir", "first").assert_finished()

The fixture `project` is there wherever the package is installed. Importing this imports nothing heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.testing.check import check_plugin as check_plugin
    from toolkit.testing.check import examine as examine
    from toolkit.testing.project import Outcome as Outcome
    from toolkit.testing.project import Project as Project
    from toolkit.testing.report import Report as Report
    from toolkit.testing.report import Result as Result

_HOME = {
    "check_plugin": "check",
    "examine": "check",
    "Outcome": "project",
    "Project": "project",
    "Report": "report",
    "Result": "report",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'toolkit.testing' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"toolkit.testing.{_HOME[name]}"), name)
    globals()[name] = value
    return value
