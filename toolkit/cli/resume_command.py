"""Go on with a run that was stopped, from its newest checkpoint and by its own recipe.

toolkit resume runs/first
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli.options import add_trace_argument
from toolkit.cli.run_command import show as show
from toolkit.cli.run_command import summary_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder")
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import resume

    return summary_of(resume(options.run)), 0
