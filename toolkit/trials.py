"""A search at work: trial after trial in processes of their own, each written down before and after."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import processes
from toolkit.checkpoint import read_json, write_json, write_text
from toolkit.errors import CheckpointError, Interrupted, RecipeError, RunError
from toolkit.folder import RECORD, RunFolder, known_where_to_go_on
from toolkit.lock import locked
from toolkit.notices import finite, say
from toolkit.processes import Ended
from toolkit.recipe import Recipe
from toolkit.room import NO_ROOM, told_when_full
from toolkit.signals import Signals
from toolkit.space import Space, as_text, changes, parse_space, size, written
from toolkit.study import Trial, best_of, is_hopeless, suggest
from toolkit.yaml12 import write_yaml

_WHAT = "search, or a trial of one,"
_OF_A_TRIAL: dict[str, Any] = {
    "train": {"push_to_hub": None, "do_eval": None, "do_predict": None},
    "eval": {"before": False, "test": False},
}
"""A trial is measured on validation, at its end, and stays here."""


@dataclass(frozen=True)
class Settings:
    """What a search was asked to do. All but `trials`, which may grow, stays as long as the search lives."""

    recipe: Recipe
    space: Space
    metric: str
    seed: int
    prune: bool
    trials: int

    def as_dict(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("metric", "seed", "prune", "trials")}
        recipe = self.recipe.without_secrets().as_dict()
        return {"recipe": recipe, "space": written(self.space), **own}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        recipe, space = Recipe(**values["recipe"]), parse_space(values["space"])
        return cls(**{**values, "recipe": recipe, "space": space})

    def recipe_of(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with a trial's values, as anybody would run it."""
        return self.recipe.override(**changes(values)).resolved().without_secrets()


def read_record(folder: Path) -> tuple[dict[str, Any], Settings, list[Trial]]:
    """What a search's folder says: the whole record, and what was asked and what was tried out of it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    record = read_json(folder / RECORD)
    try:
        settings = Settings.from_dict(record["search"])
        return record, settings, [Trial(**one) for one in record["trials"]]
    except (KeyError, TypeError, RecipeError) as error:
        raise CheckpointError(
            f"{folder / RECORD} is no record of a search: {error}",
            hint="bring it back from a copy, or start another search",
        ) from None


def folder_of(search: Path, trial: int) -> Path:
    """Where a trial's run is."""
    return search / "trials" / f"trial-{trial}"


def carry_out(folder: Path, settings: Settings) -> None:
    """Go on with a search whose record has been begun, to its end.

    Raises:
        RecipeError: every trial failed.
        CheckpointError: another search is at work in the folder, or the data has changed.
        Interrupted: a signal came.
    """
    with known_where_to_go_on(folder), locked(folder, _WHAT) as lock, Signals().listening() as signals:
        work = _Work(folder, settings, signals, lock)
        try:
            with told_when_full(folder, folder):
                work.carry_out()
        except BaseException as error:
            stopped = isinstance(error, Interrupted | KeyboardInterrupt)
            try:
                work.write("interrupted" if stopped else "failed")
            except OSError as problem:  # what ended the search is said, whether or not there is room for it
                say(f"{folder / RECORD} cannot be written: {problem.strerror}")
            raise


class _Work:
    """The record, which is written after each change, and the trial under way."""

    def __init__(self, folder: Path, settings: Settings, signals: Signals, lock: int) -> None:
        self.folder, self.settings, self.signals, self.lock = folder, settings, signals, lock
        self.record, _, self.trials = read_record(folder)
        self.record["search"] = settings.as_dict()
        self.higher: bool = self.record["higher_is_better"]

    @property
    def best(self) -> Trial | None:
        return best_of(self.trials, self.higher)

    def carry_out(self) -> None:
        """Try until there are as many trials as asked for, or nothing is left to try; then measure the best once."""
        self.signals.poll()
        while (trial := self._next()) is not None:
            self.trials[-1] = self._try(trial)
            self.write("running")
            self._tell(self.trials[-1])
            self._tidy()
            self.signals.poll()
        if self.best is None:
            raise RecipeError(
                f"none of {len(self.trials)} trials has finished; the first: {self.trials[0].reason}",
                hint=f"see {self._log(self.trials[0])}; mend it and start another search",
            )
        self._measure(self.best)
        self.write("finished")

    def write(self, status: str) -> None:
        """Write the record, and the best recipe so far."""
        self.record |= {"status": status, "trials": [trial.as_dict() for trial in self.trials]}
        if (best := self.best) is not None:
            self.record["best"] = {"trial": best.number, "score": best.score, "values": dict(best.values)}
            best_recipe = self.settings.recipe_of(best.values)
            write_text(self.folder / "best.yaml", write_yaml(best_recipe.as_dict()))
        write_json(self.folder / RECORD, finite(self.record))

    def _next(self) -> Trial | None:
        """The trial that was interrupted, or else a new one, which is written down before it begins."""
        if self.trials and self.trials[-1].status == "running":
            return self.trials[-1]
        if len(self.trials) >= self.settings.trials:
            return None
        values = suggest(self.settings.space, self.trials, self.settings.seed, self.higher)
        if values is None:
            say(f"all {size(self.settings.space)} combinations have been tried")
            return None
        self.trials.append(Trial(len(self.trials) + 1, values))
        self.write("running")
        return self.trials[-1]

    def _try(self, trial: Trial) -> Trial:
        """Run a trial to its end, or until it is hopeless."""
        say(f"trial {trial.number}/{self.settings.trials}: {as_text(trial.values)}")
        started, folder = time.monotonic(), folder_of(self.folder, trial.number)
        watch = _Watch(self, RunFolder(folder))
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "recipe.yaml"
            self.settings.recipe_of(trial.values).override(**_OF_A_TRIAL).dump(file)
            ended = self._command(
                trial, ["run", str(file), "--output-dir", str(folder), "--resume"], watch.look
            )
        watch.look()
        self._refuse_other_data(folder)
        seconds = round(trial.seconds + time.monotonic() - started, 1)
        return self._judged(
            dataclasses.replace(trial, curve=tuple(watch.curve), seconds=seconds), ended, watch
        )

    def _command(self, trial: Trial, arguments: list[str], stop: Any = lambda: False) -> Ended:
        """Carry out a command on a trial; what it says goes to the trial's log."""
        with self._log(trial).open("ab") as log:
            return processes.carry_out(
                [*arguments, "--debug"], log, signals=self.signals, keep_open=(self.lock,), stop=stop
            )

    def _log(self, trial: Trial) -> Path:
        return folder_of(self.folder, trial.number).with_suffix(".log")

    def _judged(self, trial: Trial, ended: Ended, watch: _Watch) -> Trial:
        """The trial as its process has ended it."""
        if watch.is_hopeless:
            return dataclasses.replace(trial, status="pruned")
        if ended.reason.startswith(NO_ROOM):  # which is no fault of the trial's values
            raise RunError(
                f"trial {trial.number}: {ended.reason}", hint=f"make room, then: toolkit resume {self.folder}"
            )
        if ended.status or ended.document is None:
            return dataclasses.replace(trial, status="failed", reason=ended.reason)
        metrics, name = ended.document["after"], self.settings.metric
        if metrics.get(name) is None:
            return dataclasses.replace(trial, status="failed", reason=f"{name} is no number")
        return dataclasses.replace(trial, status="finished", score=metrics[name], metrics=metrics)

    def _refuse_other_data(self, folder: Path) -> None:
        """Raise `CheckpointError` where a trial has run on other rows than the trials before it."""
        found = RunFolder(folder).read_environment().get("data_fingerprint")
        begun = self.record["data_fingerprint"] = self.record["data_fingerprint"] or found
        if found is not None and found != begun:
            shutil.rmtree(folder)
            raise CheckpointError(
                f"the data is not what the search in {self.folder} began with",
                hint="bring back the rows as they were, or start another search",
            )

    def _tell(self, trial: Trial) -> None:
        name, best = self.settings.metric, self.best
        what = {
            "finished": f"{name} {shown(trial.score)}",
            "pruned": f"ended early at {name} {shown(next(iter(trial.curve[-1:]), None))}",
            "failed": f"failed: {trial.reason}",
        }[trial.status]
        so_far = f"; best so far: trial {best.number}, {name} {shown(best.score)}" if best is not None else ""
        say(f"trial {trial.number}: {what} after {trial.seconds:.0f} s{so_far}")

    def _tidy(self) -> None:
        """Of trials that have ended keep the model and the checkpoints of the best alone."""
        for trial in self.trials:
            if trial is not self.best and trial.status != "running":
                files = RunFolder(folder_of(self.folder, trial.number))
                for place in (files.model, files.checkpoints):
                    shutil.rmtree(place, ignore_errors=True)

    def _measure(self, best: Trial) -> None:
        """Measure the best trial's model on the test rows, if there are any; no other trial's ever is."""
        known = self.record["test"]
        if "test" not in self.record["rows"] or (known is not None and known["trial"] == best.number):
            return
        say(f"measuring trial {best.number} on the test rows")
        folder = folder_of(self.folder, best.number)
        ended = self._command(best, ["eval", str(folder), "--set", "eval.test=true"])
        if ended.status or ended.document is None:
            raise RuntimeError(f"the best model could not be measured: {ended.reason}")
        values = {key: ended.document[key] for key in ("rows", "metrics")}
        self.record["test"] = {"trial": best.number, **values}


class _Watch:
    """Reads what a trial measures while it runs, up to where it is hopeless, if it ever is."""

    def __init__(self, work: _Work, files: RunFolder) -> None:
        self.work, self.files = work, files
        self.curve: list[float | None] = []
        self.is_hopeless = False

    def look(self) -> bool:
        """Take in what is new, and return whether the trial is hopeless."""
        name = self.work.settings.metric
        for line in self.files.validation_lines()[len(self.curve) :]:
            if self.is_hopeless:
                break
            self.curve.append(line.get(name))
            say(f"  evaluation {len(self.curve)}: {name} {shown(self.curve[-1])}")
            self.is_hopeless = self._judge()
        return self.is_hopeless

    def _judge(self) -> bool:
        others = [trial for trial in self.work.trials if trial.status != "running"]
        return self.work.settings.prune and is_hopeless(others, self.curve, self.work.higher)


def shown(value: float | None) -> str:
    return "nan" if value is None else f"{value:.4g}"
