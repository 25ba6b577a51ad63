"""Fine-tune: measure, train, measure again, save.

toolkit run --task whisper-asr
toolkit run --task whisper-asr --model openai/whisper-small --data my_recordings/
toolkit run my.yaml --set train.num_train_epochs=5 --output-dir runs/five
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from toolkit.cli.console import number, print_table
from toolkit.cli.imports import import_what_runs
from toolkit.cli.options import (
    add_allow_changes_argument,
    add_output_dir_arguments,
    add_recipe_arguments,
    going_on_with,
    recipe_from,
)
from toolkit.notices import printable

if TYPE_CHECKING:
    from toolkit.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    add_output_dir_arguments(parser, "run", "runs/<task>-<date>-<time>")
    add_allow_changes_argument(parser)


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    with going_on_with(options.output_dir if options.resume else None):
        recipe = recipe_from(options)
        import_what_runs()
        from toolkit.runs import run

        made = run(recipe, options.output_dir, resume=options.resume, allow_changes=options.allow_changes)
    return summary_of(made), 0


def summary_of(finished: Run) -> dict[str, Any]:
    return {**finished.summary, "folder": str(finished.folder)}


def show(summary: dict[str, Any]) -> None:
    train, rows = summary["train"], summary["rows"]
    trained = f"{rows['train']} rows, {train['steps']} steps, {train['seconds']:.0f} s of training"
    print(printable(f"\n{summary['task']}: {trained}"))
    if rows["quarantined"]:
        print(f"{rows['quarantined']} rows could not be used: see quarantine.jsonl")
    measured = rows["test"] or rows["validation"]
    table = [["", "before", "after"]]
    for name, after in summary["after"].items():
        table.append([name, number(summary["before"].get(name)), number(after)])
    if summary["after"]:
        print(f"measured on {measured} rows that were not trained on:")
        print_table(table)
    print(printable(f"run folder: {summary['folder']}"))
