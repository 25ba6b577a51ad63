"""Measure a run's model, on the run's own test (or validation) rows or on other data.

toolkit eval runs/first
toolkit eval runs/first --data other_recordings/ --set data.max_bad_fraction=0.1
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli.console import number, print_table
from toolkit.cli.options import add_set_argument, add_trace_argument, settings_from


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("--data", metavar="D", help="a data folder, file or hub id instead of the run's")
    add_set_argument(
        parser, "a key of the recipe's data, eval, train, cache or a plugin's section, for this time"
    )
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import load_run

    return load_run(options.run).evaluate(options.data, settings_from(options)), 0


def show(document: dict[str, Any]) -> None:
    print(f"{document['split']}: {document['rows']} rows")
    print_table([[name, number(value)] for name, value in document["metrics"].items()])
