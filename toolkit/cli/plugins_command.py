"""List the installed plugins: what a recipe's `plugins` may name. With --check, hold them to the contract.

toolkit plugins --check whisper
toolkit plugins --check vit --recipe small.yaml
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli import tasks_command
from toolkit.cli.tasks_command import listing
from toolkit.errors import RecipeError
from toolkit.notices import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--check", metavar="NAME", nargs="?", const="", help="hold a plugin, or each of them, to the contract"
    )
    parser.add_argument(
        "--recipe",
        metavar="R",
        help="the task or recipe file to check NAME in; a task with a sample by default",
    )


def execute(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    if options.recipe is not None and not options.check:
        raise RecipeError("--recipe is for one plugin", hint="name it: --check NAME --recipe R")
    if options.check is None:
        return listing("plugin"), 0
    from toolkit.testing.check import examine, examine_all

    reports = [examine(options.check, options.recipe)] if options.check else list(examine_all())
    return [report.as_dict() for report in reports], 0 if all(report.ok for report in reports) else 1


def show(document: list[dict[str, Any]]) -> None:
    if not document or "laws" not in document[0]:
        return tasks_command.show(document)
    from toolkit.testing import Report

    for report in document:
        print(printable(str(Report.from_dict(report))))
