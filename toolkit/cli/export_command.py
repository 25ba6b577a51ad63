"""Write a run's model to a folder of its own: as it is, or merged into one that plain transformers loads.

toolkit export runs/first --to exported/
toolkit export runs/first --to merged/ --merge
"""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli.console import number, print_table
from toolkit.cli.options import add_trace_argument
from toolkit.notices import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("--to", metavar="DIR", required=True, help="the folder to write, new or empty")
    parser.add_argument(
        "--merge", action="store_true", help="merge the adapter into the full-precision base model"
    )
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import load_run

    return load_run(options.run).export(options.to, merge=options.merge), 0


def show(document: dict[str, Any]) -> None:
    compared = document["compared"]
    if compared:
        print(f"compared on {compared['rows']} {compared['split']} rows:")
        rows = [[name, number(value), number(compared["merged"][name])]
                for name, value in compared["unmerged"].items()]  # fmt: skip
        print_table([["", "unmerged", "merged"], *rows])
        if outputs := compared["outputs"]:
            print(f"the same output for {outputs['same']} of {outputs['of']} rows")
    if document["note"]:
        print(printable(f"note: {document['note']}"))
    print(printable(f"exported to {document['folder']}"))
