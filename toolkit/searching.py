"""Searches: the same recipe run with other values, each trial in a process of its own, and the best of them kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import processes, study
from toolkit.changes import differences
from toolkit.checkpoint import write_json
from toolkit.errors import CheckpointError, RecipeError, ToolkitError, did_you_mean
from toolkit.folder import RECORD, SCHEMA, RunFolder, expanded
from toolkit.notices import say
from toolkit.recipe import Recipe
from toolkit.runs import Run, load_run, plugins_of
from toolkit.space import Space, changes, parse_space, probes, probes_of_model
from toolkit.study import Trial, best_of
from toolkit.trials import Settings, carry_out, folder_of, read_record

if TYPE_CHECKING:
    import optuna

_UNEQUAL = ("train.num_train_epochs", "train.max_steps", "train.eval_strategy", "train.eval_steps")
"""Keys with which trials cannot be compared before they end."""


class Search:
    """A search's folder: its trials, and the best recipe among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record, self.settings, self.trials = read_record(folder)
        self.metric: str = self.settings.metric
        self.higher_is_better: bool = self.record["higher_is_better"]

    def __repr__(self) -> str:
        return f"Search({str(self.folder)!r}, {len(self.trials)} trials, {self.record['status']})"

    @property
    def best_trial(self) -> Trial:
        """The finished trial with the best score.

        Raises:
            CheckpointError: no trial has finished.
        """
        best = best_of(self.trials, self.higher_is_better)
        if best is None:
            raise CheckpointError(
                f"no trial in {self.folder} has finished", hint=f"go on with: toolkit resume {self.folder}"
            )
        return best

    @property
    def best(self) -> Recipe:
        """The recipe with the best trial's values."""
        return self.settings.recipe_of(self.best_trial.values)

    def load_best(self) -> Run:
        """The best trial's run, with its model."""
        return load_run(folder_of(self.folder, self.best_trial.number))

    def as_optuna(self) -> optuna.Study:
        """The trials as a study of Optuna's, in memory, for its plots and importances."""
        ended = [trial for trial in self.trials if trial.status != "running"]
        made: optuna.Study = study.as_optuna(ended, self.settings.space, self.higher_is_better)
        return made


def search(
    recipe: Recipe | str | Path,
    space: Mapping[str, Any],
    output_dir: str | Path | None = None,
    *,
    trials: int = 20,
    metric: str | None = None,
    seed: int = 0,
    prune: bool = True,
    resume: bool = False,
) -> Search:
    """Try values of a recipe's keys, one run a trial, and keep the best by a metric on the validation rows.

        found = search("whisper-asr", {"train.learning_rate": "1e-4..1e-2:log", "adapter.r": [4, 8, 16]}, trials=8)
        found.best.dump("best.yaml")

    Args:
        space: where to look, by dotted key: `low..high`, `low..high:log`, or choices as a list or `one,another`.
        output_dir: the search's folder, new or empty; by default `runs/<task>-search-<date>-<time>`.
        metric: what is compared; by default the recipe's `metric_for_best_model`, or `loss`.
        seed: the same one suggests the same values.
        prune: end trials that are worse at an evaluation than the median of the others was.
        resume: go on with the search in `output_dir`, if there is one; `trials` may be more than before.
    Raises:
        ToolkitError: what was given is wrong, or every trial failed.
        Interrupted: a signal ended the search; what was tried is kept.
    """
    study.load_optuna()
    if trials < 1:
        raise RecipeError(f"--trials: expected at least 1, found {trials}", hint="20 is a good start")
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    if output_dir is not None and not str(output_dir):
        raise RecipeError("the name of the search's folder is empty", hint="leave it out, or name one")
    if resume and output_dir is None:
        raise RecipeError("nothing to resume: no folder was named", hint="name it with --output-dir")
    folder = expanded(output_dir or f"runs/{recipe.name}-search-{datetime.now():%Y%m%d-%H%M%S}")
    settings = _settings(recipe, parse_space(space), metric, seed, prune, trials)
    if resume and (folder / RECORD).exists():
        return _go_on(folder, settings)
    _refuse_unless_new(folder)
    _check_all(settings)
    return _begin(folder, settings)


def resume_search(folder: str | Path) -> Search:
    """Go on with the search in a folder, as it was asked for."""
    found = Search(Path(folder))
    return _go_on(found.folder, found.settings)


def is_search(folder: str | Path) -> bool:
    """Whether a folder holds a search."""
    return bool(str(folder)) and (Path(folder) / RECORD).is_file()


# ---- beforehand ------------------------------------------------------------------------------------------


def _settings(
    recipe: Recipe, space: Space, metric: str | None, seed: int, prune: bool, trials: int
) -> Settings:
    """The settings, their recipe resolved; one whose model is searched has no sample's overlay."""
    models = {key: where.probes[0] for key, where in space.items() if key in ("model", "model.name")}
    recipe = recipe.override(**changes(models)).resolved()
    if metric is None:
        metric = str(recipe.train.get("metric_for_best_model", "loss"))
    unequal = next((key for key in space if key in _UNEQUAL), None)
    if prune and unequal is not None:
        say(f"no trial is ended early: with different {unequal} they can be compared only when they end")
    return Settings(recipe, space, metric.removeprefix("eval_"), seed, prune and unequal is None, trials)


def _refuse_unless_new(folder: Path) -> None:
    if is_search(folder):
        raise CheckpointError(
            f"{folder} holds another search",
            hint=f"go on with it: toolkit resume {folder}, or name another folder with --output-dir",
        )
    RunFolder(folder).refuse_unless_new()


def _check_all(settings: Settings) -> None:
    """Every end and every choice, by the recipe's own validation, before the first trial.

    Raises:
        RecipeError: all that is wrong, each fault once.
    """
    if "train.seed" in settings.space and "data_seed" not in settings.recipe.train:
        raise RecipeError(
            "--space train.seed: each seed may set other rows aside for validation",
            hint="keep them the same: --set train.data_seed=42",
        )
    hints: dict[str, str | None] = {}
    for values in probes(settings.space):
        try:
            plugins_of(settings.recipe.override(**changes(values)))
        except ToolkitError as error:
            for fault in error.all:
                hints.setdefault(fault.message, fault.hint)
    _raise_all(hints)


def _begin(folder: Path, settings: Settings) -> Search:
    """Check the recipe with its data and model in a process of its own, then try."""
    say(f"{settings.recipe.name}: checking the recipe, its data and its model")
    found = _checked(settings)
    metrics, splits = found["metrics"], found["rows"]["splits"]
    if settings.metric not in metrics:
        raise RecipeError(
            f"metric: no metric is named '{settings.metric}'",
            hint=did_you_mean(settings.metric, metrics) or f"the metrics are: {', '.join(metrics)}",
        )
    if "validation" not in splits:
        raise RecipeError(
            "there are no validation rows to compare trials on",
            hint="--set data.validation_fraction=0.1, or call a part of the data 'validation'",
        )
    record = {
        "schema": SCHEMA,
        "status": "running",
        "task": settings.recipe.name,
        "search": settings.as_dict(),
        "metric": settings.metric,
        "higher_is_better": metrics[settings.metric],
        "rows": splits,
        "data_fingerprint": None,
        "trials": [],
        "best": None,
        "test": None,
    }
    with RunFolder(folder).can_be_written():
        (folder / "trials").mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, record)
    carry_out(folder, settings)
    return Search(folder)


def _checked(settings: Settings) -> Mapping[str, Any]:
    """What `toolkit check` finds out about the first probe; the others that need a model are checked as well.

    Raises:
        RecipeError: all that is wrong, each fault once.
    """
    found: dict[str, Any] = {}
    hints: dict[str, str | None] = {}
    for values in probes_of_model(settings.space):
        document = _check(settings.recipe_of(values))
        found = found or document
        for fault in (*document.get("faults", ()), *document.get("errors", ())):
            hints.setdefault(fault["message"], fault["hint"])
    _raise_all(hints)
    return found


def _check(recipe: Recipe) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as said:
        recipe.dump(Path(place) / "recipe.yaml")
        ended = processes.carry_out(["check", f"{place}/recipe.yaml"], said)
        said.seek(0)
        last = said.read().decode(errors="replace").strip().splitlines()[-1:]
    if ended.document is None:
        raise RuntimeError(f"the recipe could not be checked: {ended.reason} {last}")
    return dict(ended.document)


def _raise_all(hints: Mapping[str, str | None]) -> None:
    """Raise the faults, given by message, if there are any."""
    if hints:
        raise RecipeError.gather([RecipeError(message, hint) for message, hint in hints.items()])


def _go_on(folder: Path, settings: Settings) -> Search:
    """Go on where a search was left; one that has done what is asked is returned as it is."""
    begun = Search(folder)
    there, here = ({**one.as_dict(), "trials": None} for one in (begun.settings, settings))
    if different := differences(there, here):
        raise RecipeError(
            f"the search in {folder} was begun with other settings\n  " + "\n  ".join(different[:8]),
            hint=f"go on by its own: toolkit resume {folder}, or start another search",
        )
    carry_out(folder, settings)
    return Search(folder)
