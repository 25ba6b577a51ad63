"""Look for all that is wrong with a recipe, its data and its model, before it runs for hours.

toolkit check --task whisper-asr --data my_recordings/
toolkit check my.yaml --dry-run
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from toolkit.cli.console import number, print_faults, print_table
from toolkit.cli.options import add_recipe_arguments, recipe_and_faults
from toolkit.errors import ToolkitError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="also train one step, evaluate, save, load and evaluate again"
    )


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    recipe, faults = recipe_and_faults(options)
    from toolkit.check import Report, check

    report = Report(faults)
    try:
        if recipe is not None:
            check(recipe, with_dry_run=options.dry_run, report=report)
    finally:  # what ends it early shall not hide what was found
        if report.faults:
            print_faults(ToolkitError.gather(report.faults))
    document = report.as_dict()
    return document, 0 if document["ok"] else 2


def show(document: dict[str, Any]) -> None:
    print_table(list(_of_data(document)))
    if document["adapter"]:
        print_table([["target_modules", "matched", "such as"], *_matches(document["adapter"])])
    print_table([*_of_model(document), *_of_dry_run(document)])
    faults = len(document["faults"])
    print("nothing wrong was found" if not faults else f"{faults} fault{'s' * (faults > 1)}, see above")


def _of_data(document: dict[str, Any]) -> Iterator[list[str]]:
    if len(document["plugins"] or ()) > 1:  # it is their order that matters
        yield ["plugins", ", ".join(document["plugins"])]
    if document["columns"]:
        names = (f"{name} = {given}" for name, given in document["columns"].items())
        yield ["columns", ", ".join(names)]
    if rows := document["rows"]:
        splits = ", ".join(f"{name} {count}" for name, count in rows["splits"].items())
        sample = f"a sample of {rows['looked_at']}" if rows["looked_at"] < rows["total"] else "all"
        missing = f", {rows['unreadable']} of them not even read" if rows["unreadable"] else ""
        yield ["rows", f"{splits}; {sample} looked at, {rows['unusable']} cannot be used{missing}"]
        yield from (["", reason] for reason in rows["reasons"])
    yield from ([name, _fact(values)] for name, values in (document["facts"] or {}).items())
    if document["first_row"] is not None:
        yield ["first row", document["first_row"]]


def _fact(values: Mapping[str, Any]) -> str:
    if set(values) == {"min", "median", "max", "total"}:
        return "  ".join(f"{name} {value:g}" for name, value in values.items())
    total = sum(values.values())
    return ", ".join(f"{name}: {count} ({100 * count / total:.1f} %)" for name, count in values.items())


def _matches(adapter: list[dict[str, Any]]) -> Iterator[list[str]]:
    for one in adapter:
        yield [one["entry"], str(one["matched"]), ", ".join(one["examples"][:2])]


def _of_model(document: dict[str, Any]) -> Iterator[list[str]]:
    if document["metrics"]:
        yield ["metrics", ", ".join(document["metrics"])]
    if parameters := document["parameters"]:
        share = 100 * parameters["trainable"] / parameters["total"]
        yield ["parameters", f"{parameters['trainable']:,} of {parameters['total']:,} train ({share:.2f} %)"]
    if steps := document["steps"]:
        size = f"{steps['per_epoch']} an epoch, {steps['rows_per_step']} rows each"
        yield ["steps", f"{steps['total']}, {size}, the first {steps['warmup']} to warm up"]
    if memory := document["memory"]:
        parts = ", ".join(f"{name} {_megabytes(size)}" for name, size in memory.items())
        yield ["memory", f"{parts}; activations come on top"]


def _of_dry_run(document: dict[str, Any]) -> Iterator[list[str]]:
    if not (outcome := document["dry_run"]):
        return
    hours, peak = outcome["hours"], _megabytes(outcome["peak_bytes"])
    yield ["dry run", f"{outcome['seconds_per_step']:.2f} s for a step, peak memory {peak}"]
    times = f"{_time(hours['training'])} of training, {_time(hours['evaluation'])} of evaluation"
    yield ["", f"at that pace the run takes {times}"]
    for name, value in outcome["metrics"].items():
        yield ["", f"{name} {number(value)}, saved and loaded again {number(outcome['reloaded'][name])}"]


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"
