"""Go on with a run or a search that was stopped, by its own recipe; a run goes on from its newest checkpoint.

toolkit resume runs/first
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli import run_command, search_command
from toolkit.cli.options import add_trace_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="DIR", help="the run's or the search's folder")
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import resume
    from toolkit.searching import is_search, resume_search

    if is_search(options.run):
        return search_command.summary_of(resume_search(options.run)), 0
    return run_command.summary_of(resume(options.run)), 0


def show(document: dict[str, Any]) -> None:
    (search_command if "trials" in document else run_command).show(document)
