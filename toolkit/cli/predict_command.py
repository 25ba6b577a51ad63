"""Use a run's model: audio files to text, images and captions to scores, as its task has it.

toolkit predict runs/first talk.wav interview.flac
toolkit predict runs/second cat.png dog.png "a cat" "a dog"
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from toolkit.cli.console import number, print_table
from toolkit.cli.options import add_trace_argument
from toolkit.notices import indented


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="what the model shall work on")
    add_trace_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import load_run

    return {"predictions": load_run(options.run).predictions(options.inputs)}, 0


def show(document: dict[str, Any]) -> None:
    for one in document["predictions"]:
        if _is_table(one["output"]):
            print(indented(f"{one['input']}:"))
            print_table([["", *map(_cell, row.values())] for row in one["output"]])
        else:
            print(indented(f"{one['input']}: {_cell(one['output'])}"))


def _is_table(output: Any) -> bool:
    return isinstance(output, list) and bool(output) and all(isinstance(row, dict) for row in output)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
