"""Go on with a run or a search that was stopped, by its own recipe; a run goes on from its newest checkpoint.

toolkit resume runs/first
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli import run_command, search_command
from toolkit.cli.imports import import_what_runs
from toolkit.cli.options import add_allow_changes_argument, add_trace_argument, going_on_with
from toolkit.errors import RecipeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the run's or the search's folder")
    add_allow_changes_argument(parser)
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    with going_on_with(options.run):
        return _resumed(options), 0


def _resumed(options: argparse.Namespace) -> dict[str, Any]:
    from toolkit.runs import resume
    from toolkit.searching import is_search, resume_search

    if is_search(options.run):
        if options.allow_changes:
            raise RecipeError(
                "--allow-changes: trials of a search could not be compared", hint="start another search"
            )
        return search_command.summary_of(resume_search(options.run))
    import_what_runs()
    return run_command.summary_of(resume(options.run, allow_changes=options.allow_changes))


def show(document: dict[str, Any]) -> None:
    (search_command if "trials" in document else run_command).show(document)
