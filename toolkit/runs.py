"""Runs: a recipe carried out into a folder, and what can be done with the folder afterwards."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import ranks
from toolkit.answers import require
from toolkit.base_model import refuse_changed
from toolkit.changes import changed_settings, may_change
from toolkit.errors import CheckpointError, DataError, RecipeError, ToolkitError
from toolkit.folder import RunFolder, expanded, in_utf8, known_where_to_go_on
from toolkit.lock import refuse_at_work
from toolkit.notices import say
from toolkit.plugins import Plugins
from toolkit.recipe import Recipe
from toolkit.room import told_when_full
from toolkit.structure import show

if TYPE_CHECKING:
    from toolkit.data.splits import Rows


class Run:
    """A run's folder, with its recipe and summary, its model and what the model can do."""

    def __init__(
        self, files: RunFolder, plugins: Plugins, model: Any = None, processor: Any = None, data: Any = None
    ) -> None:
        self._files, self._plugins, self._data = files, plugins, data
        self.recipe = plugins.recipe
        self.summary: dict[str, Any] = files.read_summary()
        if model is not None:
            self._loaded = (model, processor)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.summary.get('status', 'unfinished')})"

    @property
    def folder(self) -> Path:
        return self._files.path

    @functools.cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from toolkit.opening import open_trained

        return open_trained(self._plugins, self._files)

    @property
    def model(self) -> Any:
        return self._loaded[0]

    @property
    def processor(self) -> Any:
        return self._loaded[1]

    def predict(self, inputs: str | Path | Sequence[str | Path]) -> list[Any]:
        """What the model makes of each input, or, where inputs are taken together, of each that gets an output.

        Raises:
            DataError: an input cannot be used.
        """
        return [one["output"] for one in self.predictions(inputs)]

    def predictions(self, inputs: str | Path | Sequence[str | Path]) -> list[dict[str, Any]]:
        """As `predict`, each output with its input: `{"input", "output"}`, in the order of the inputs."""
        from toolkit.linear import swift_linear

        given = [str(one) for one in ([inputs] if isinstance(inputs, str | Path) else inputs)]
        for one in given:
            if not in_utf8(one):
                raise DataError(f"{one!r}: is not in UTF-8", hint="write it, or name the file, in UTF-8")
        self.model.eval()
        columns = self._files.read_environment().get("columns", {})
        with swift_linear(self.model):
            outputs = self._plugins.predict(self.model, self.processor, columns)(given)
        paired = isinstance(outputs, Mapping) or (isinstance(outputs, list) and len(outputs) == len(given))
        require(paired, outputs, "toolkit_predict", "a list with an output of each input")
        if isinstance(outputs, Mapping):
            pairs = [(one, outputs[one]) for one in given if one in outputs]
        else:
            pairs = list(zip(given, outputs, strict=True))
        return [{"input": one, "output": output} for one, output in pairs]

    def evaluate(self, data: Any = None, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Measure the model: on the run's own test (or validation) rows, or on `data`, a source or objects.

        Args:
            settings: changes to the recipe's `data`, `eval`, `train`, `cache` and the plugins' sections, for this time.
                `data.limit` is of the run's own data: other data counts in full unless a limit is set here.
        Returns:
            `{"split", "rows", "metrics"}`.
        Raises:
            DataError: the rows cannot be used.
            RecipeError: the settings are wrong, or are of the model, which is what it is.
        """
        from toolkit.execution import Execution
        from toolkit.opening import open_data
        from toolkit.signals import Signals

        recipe = self.recipe
        if data is not None:
            source = {"source": str(data)} if isinstance(data, str | Path) else {}
            recipe = recipe.override(data={**source, "limit": None, "config": None}, eval={"test": None})
        plugins = self._plugins.with_recipe(_for_measuring(recipe, settings or {}).resolved())
        plugins.check()
        if data is None:
            splits = open_data(plugins, self._data)
        else:
            splits = open_data(plugins, None if isinstance(data, str | Path) else data, hold_out=False)
        with Signals().listening() as signals:
            execution = Execution(plugins, self._files, splits, *self._loaded, signals, training=False)
            split = execution.measured_split
            if split is None:
                raise DataError(
                    "there are no rows to measure on: no test and no validation split", hint="give --data"
                )
            with execution.reusing():
                metrics = execution.evaluate(split)
        execution.trainer.release_model()
        return {"split": split, "rows": execution.used(split), "metrics": metrics}

    def export(self, to: str | Path, merge: bool = False) -> dict[str, Any]:
        """Write the model to `to`, a new or empty folder; see `toolkit.export.export`.

        Args:
            merge: an adapter merged into its full-precision base model, for `transformers` without `peft`.
        Raises:
            CheckpointError: the run is not finished, the folder cannot be had, or merging changes the model.
        """
        from toolkit.export import export

        if not str(to):
            raise CheckpointError("the name of the folder to write is empty", hint="name one with --to")
        return export(self._plugins, self._files, Path(to), merge=merge, data=self._data)


def run(
    recipe: Recipe | str | Path,
    output_dir: str | Path | None = None,
    *,
    data: Any = None,
    model: Any = None,
    processor: Any = None,
    resume: bool = False,
    allow_changes: bool = False,
) -> Run:
    """Carry out a recipe: measure, train, measure again, save.

    Args:
        recipe: a recipe, a recipe file or a task's name.
        output_dir: the run's folder, new or empty; by default `runs/<task>-<date>-<time>`.
        data: rows given in code instead of `data.source`: a datasets object, rows, or a mapping of splits.
        model, processor: objects instead of what `model.name` names.
        resume: go on with the run in `output_dir` from its newest checkpoint; a finished one is returned as it is.
        allow_changes: go on even so where the recipe, the data or the base model is not what the run began with.
    Raises:
        ToolkitError: what was given is wrong; nothing that was there is touched.
        Interrupted: a signal ended the run; what was trained is saved, but by a second SIGINT.
    """
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)
    output_dir = recipe.train.get("output_dir") if output_dir is None else output_dir
    if output_dir is not None and not str(output_dir):
        raise RecipeError("the name of the run's folder is empty", hint="leave it out, or name one")
    if _asks_to_resume(recipe) and output_dir is not None:
        resume = True
    if resume and output_dir is None:
        raise RecipeError("nothing to resume: no folder was named", hint="name it with --output-dir")
    resolved = _with_objects_named(recipe, data, model).resolved()
    plugins = plugins_of(resolved)
    files, going_on, changed = ranks.first(
        functools.partial(_place, output_dir, resolved, resume, allow_changes)
    )
    finished = going_on and files.read_summary().get("status") == "finished"
    if finished and all(may_change(line) for line in changed):
        return Run(files, plugins, data=data)
    say(f"{recipe.name}: preparing {files.path}")
    with told_when_full(files.path, files.checkpoints):
        return _carry_out(plugins, files, data, (model, processor), going_on, changed, allow_changes)


def _place(
    output_dir: str | Path | None, recipe: Recipe, resume: bool, allow_changes: bool
) -> tuple[RunFolder, bool, list[str]]:
    """Where a run goes, whether it goes on with what is there, and with which settings changed."""
    files = RunFolder(expanded(output_dir or _new_name(recipe.name)))
    if resume and files.recipe.exists():
        refuse_at_work(files.path)
        return files, True, changed_settings(files, recipe, allow_changes)
    files.refuse_unless_new()
    return files, False, []


def resume(folder: str | Path, *, allow_changes: bool = False) -> Run:
    """Go on with the run in a folder, by the recipe it holds."""
    files = RunFolder.open(folder)
    return run(files.read_recipe(), files.path, resume=True, allow_changes=allow_changes)


def load_run(folder: str | Path) -> Run:
    """The run in a folder; its model is loaded when it is first used.

    Raises:
        CheckpointError: the folder is no run, holds no trained model yet, or the weights of the base model that its
            adapter belongs to have changed since.
    """
    files = RunFolder.open(folder)
    if not files.model.is_dir():
        refuse_at_work(files.path)
        status = files.read_summary().get("status", "unfinished")
        raise CheckpointError(
            f"{folder} holds no trained model yet: the run is {status}",
            hint=f"go on with it: toolkit resume {folder}",
        )
    recipe = files.read_recipe()
    if files.has_adapter:
        refuse_changed(recipe.model, files.read_environment().get("base_model", {}))
    return Run(files, Plugins(recipe))


def _asks_to_resume(recipe: Recipe) -> bool:
    asked = recipe.train.get("resume_from_checkpoint", False)
    if str(asked).lower() not in ("true", "false"):
        raise RecipeError(
            f"train.resume_from_checkpoint: {show(asked)}: a run goes on from a checkpoint in its own folder",
            hint="toolkit resume RUN_DIR, or train.resume_from_checkpoint=true with --output-dir",
        )
    return str(asked).lower() == "true"


def plugins_of(recipe: Recipe) -> Plugins:
    """The recipe's plugins, once it and they find nothing wrong with it; all faults come together."""
    faults: list[ToolkitError] = []
    plugins = None
    try:
        plugins = Plugins(recipe)
        plugins.check()
    except ToolkitError as error:
        faults += error.all
    try:
        recipe.validate(own_adapter=plugins is not None and plugins.adapt() is not None)
    except ToolkitError as error:
        faults += error.all
    if plugins is None or faults:
        raise type(faults[0]).gather(faults)
    return plugins


def faults_of(recipe: Recipe) -> list[ToolkitError]:
    """What a run of the recipe would be refused for before data and model are opened."""
    try:
        plugins_of(recipe.resolved())
    except ToolkitError as error:
        return list(error.all)
    return []


def _carry_out(
    plugins: Plugins, files: RunFolder, data: Any, objects: tuple[Any, Any], going_on: bool,
    changed: Sequence[str], allow_changes: bool,
) -> Run:  # fmt: skip
    from toolkit.execution import Execution
    from toolkit.signals import Signals

    with known_where_to_go_on(files.path), Signals().listening() as signals, files.made_and_locked():
        if not going_on:  # another run may have begun, and ended, since the folder was looked at
            ranks.first(files.refuse_what_is_there)
        begun = files.read_environment().get("base_model", {}) if going_on else {}
        splits, loaded = ranks.alike(functools.partial(_opened, plugins, data, objects, begun))
        if not going_on:
            ranks.first(functools.partial(_look_at_rows, plugins, splits, loaded[1]))
        execution = ranks.alike(functools.partial(Execution, plugins, files, splits, *loaded, signals))
        ranks.first(execution.find_repository)
        if going_on:
            ranks.first(functools.partial(execution.check_same_start, changed, allow_changes=allow_changes))
        else:
            ranks.first(execution.begin)
        result = functools.partial(Run, files, plugins, *loaded, data=data)
        try:
            execution.carry_out(going_on)
        except BaseException as error:
            execution.fail(error)
            if ranks.is_first():
                plugins.run_failed(result(), error)
            raise
    ranks.first(execution.push)
    finished = result()
    if ranks.is_first():
        plugins.run_finished(finished)
    return finished


def _opened(
    plugins: Plugins, data: Any, objects: tuple[Any, Any], begun: Mapping[str, Any]
) -> tuple[dict[str, Rows], tuple[Any, Any]]:
    """A run's rows by split; its model, as it was when the run was `begun`, and processor."""
    from toolkit.opening import open_data, open_model

    splits = open_data(plugins, data)
    if "train" not in splits:
        raise DataError(
            f"the data has no train split (it has: {', '.join(splits)})",
            hint="training needs one: call a part of the data 'train'",
        )
    return splits, open_model(plugins, objects, int(plugins.recipe.train.get("seed", 42)), begun)


def _for_measuring(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    fixed = [key for key in ("name", "plugins", "model", "adapter", "sample") if key in settings]
    if fixed:
        raise RecipeError(
            f"{fixed[0]}: cannot be changed for a model that is trained",
            hint=f"what can be: data, eval, train, cache, {', '.join(recipe.plugins)}",
        )
    return recipe.override(**settings)


def _look_at_rows(plugins: Plugins, splits: Any, processor: Any) -> None:
    """Raise `DataError` at once where the run would end by bad rows, as far as a look at them can tell."""
    from toolkit.data.inspection import inspect_rows

    look = plugins.inspect(processor)
    if look is None:
        return
    found = inspect_rows(splits, look)
    if faults := found.faults(plugins.recipe.data):
        raise DataError.gather(faults)
    for notice in found.notices():
        say(notice)


def _with_objects_named(recipe: Recipe, data: Any, model: Any) -> Recipe:
    """The recipe as it will be written down: what is given in code stands in it by a name that says so."""
    from toolkit.opening import GIVEN_IN_CODE

    if data is not None:
        recipe = recipe.override(data={"source": GIVEN_IN_CODE})
    if model is not None:
        recipe = recipe.override(model={"name": getattr(model, "name_or_path", "") or GIVEN_IN_CODE})
    return recipe


def _new_name(task: str) -> str:
    return f"runs/{task}-{datetime.now():%Y%m%d-%H%M%S}"
