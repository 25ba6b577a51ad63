"""Try values of a recipe's settings, a run and a process each, and keep the best by a metric on validation rows.

toolkit search --task whisper-asr --space train.learning_rate=1e-4..1e-2:log --space adapter.r=4,8,16 --metric wer
toolkit search my.yaml --space whisper.language=en,null --trials 8 --output-dir runs/tuned
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toolkit.cli.console import number, print_table
from toolkit.cli.options import add_output_dir_arguments, add_recipe_arguments, going_on_with, recipe_from
from toolkit.errors import RecipeError
from toolkit.notices import printable

if TYPE_CHECKING:
    from toolkit.searching import Search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe_arguments(parser)
    parser.add_argument(
        "--space", metavar="KEY=WHERE", action="append", default=[],
        help="where to look for any key: LOW..HIGH, LOW..HIGH:log, or choices: ONE,ANOTHER",
    )  # fmt: skip
    parser.add_argument("--trials", metavar="N", type=int, default=20, help="how many to try (default: 20)")
    parser.add_argument("--metric", metavar="NAME", help="what is compared (default: the recipe's, or loss)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is suggested (default: 0)")
    parser.add_argument("--no-prune", action="store_true", help="run every trial to its end")
    add_output_dir_arguments(parser, "search", "runs/<task>-search-<date>-<time>")


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    with going_on_with(options.output_dir if options.resume else None):
        recipe, space = recipe_from(options), _space(options.space)
        from toolkit.searching import search

        found = search(
            recipe,
            space,
            options.output_dir,
            trials=options.trials,
            metric=options.metric,
            seed=options.seed,
            prune=not options.no_prune,
            resume=options.resume,
        )
    return summary_of(found), 0


def summary_of(found: Search) -> dict[str, Any]:
    return {**found.record, "folder": str(found.folder)}


def _space(given: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        key, equals, where = one.partition("=")
        if not equals:
            raise RecipeError(
                f"--space {one}: expected KEY=WHERE", hint="for example --space adapter.r=4,8,16"
            )
        if key in found:
            raise RecipeError(f"--space {key}: is given twice", hint="list all choices in one: a,b,c")
        found[key] = where
    return found


def show(document: dict[str, Any]) -> None:
    metric, best, folder = document["metric"], document["best"], document["folder"]
    print()
    print_table([["trial", *document["search"]["space"], metric, "s", ""], *_rows(document)])
    rows = document["rows"]["validation"]
    print(f"\nbest: trial {best['trial']}, {metric} {number(best['score'])} on {rows} validation rows")
    if test := document["test"]:
        values = "  ".join(f"{name} {number(value)}" for name, value in test["metrics"].items())
        print(f"on {test['rows']} test rows, which chose nothing: {values}")
    print(printable(f"its recipe: {folder}/best.yaml"))
    print(printable(f"its run: {folder}/trials/trial-{best['trial']}"))


def _rows(document: dict[str, Any]) -> Iterator[list[str]]:
    """The trials, the best first, then those that did not finish."""
    from toolkit.space import cell
    from toolkit.study import Trial, ranked

    trials = [Trial(**one) for one in document["trials"]]
    finished = ranked(trials, document["higher_is_better"])
    for trial in [*finished, *(one for one in trials if one not in finished)]:
        score = trial.score if trial.score is not None else next(iter(trial.curve[-1:]), None)
        note = {"finished": "", "pruned": "ended early"}.get(trial.status, f"{trial.status}: {trial.reason}")
        values = [cell(value) for value in trial.values.values()]
        yield [str(trial.number), *values, number(score), f"{trial.seconds:.0f}", note]
