"""Use a run's model: audio files to text, prompts to completions, as its task has it.

toolkit predict runs/first talk.wav interview.flac
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from toolkit.notices import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN_DIR", help="the run's folder")
    parser.add_argument("inputs", metavar="INPUT", nargs="+", help="what the model shall work on")


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    from toolkit.runs import load_run

    outputs = load_run(options.run).predict(options.inputs)
    pairs = zip(options.inputs, outputs, strict=True)
    return {"predictions": [{"input": given, "output": output} for given, output in pairs]}, 0


def show(document: dict[str, Any]) -> None:
    for one in document["predictions"]:
        output = (
            one["output"] if isinstance(one["output"], str) else json.dumps(one["output"], ensure_ascii=False)
        )
        print(printable(f"{one['input']}: {output}"))
