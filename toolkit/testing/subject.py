"""A plugin under examination, in a recipe that uses it, opened as far as laws ask for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.discovery import find, installed
from toolkit.errors import DataError, PluginError, ToolkitError
from toolkit.plugins import Plugins
from toolkit.recipe import Recipe

if TYPE_CHECKING:
    from toolkit.data.splits import Rows
    from toolkit.runs import Run
    from toolkit.testing.training import Trained
    from toolkit.types import Batch, Row

ROWS, MANY_ROWS = 8, 24
"""Of each split, at most: for most laws, and where a few would tell nothing."""
FLOAT64, FLOAT32 = 1e-7, 1e-4
"""Tolerances. In float64 sums are 1e-14 apart, but some models compute a part of what they do in float32."""
_SMALL: dict[str, Any] = {
    "data": {"limit": ROWS},
    "eval": {"before": False, "max_samples": 5, "early_stopping_patience": None, "metrics": None},
    "train": {
        "max_steps": 6, "num_train_epochs": None, "save_strategy": "steps", "save_steps": 3, "logging_steps": 1,
        "per_device_train_batch_size": 2, "per_device_eval_batch_size": 2, "gradient_accumulation_steps": 1,
        "warmup_steps": 0, "warmup_ratio": None, "eval_strategy": "no", "eval_on_start": None,
        "load_best_model_at_end": None, "metric_for_best_model": None, "report_to": "none", "push_to_hub": None,
        "bf16": None, "fp16": None, "use_cpu": True, "dataloader_num_workers": 0, "output_dir": None,
    },
}  # fmt: skip
"""What is changed about a recipe, so that a run of it takes a moment."""


class DoesNotApply(Exception):  # noqa: N818  it is no error
    """A law is about something that the plugin does not do."""


class Subject:
    """One plugin; everything that is opened is opened once."""

    def __init__(self, called: str, recipe: Recipe | str | Path | None, folder: Path) -> None:
        """`called`: the plugin as a recipe names it; `folder`: for whatever laws want to write.

        Raises:
            PluginError: no plugin is called so, or several are.
        """
        self.plugin, self.called, self.folder = find("plugin", called), called, folder
        self.name = self.plugin.name
        self._given = recipe

    # ---- the recipe ------------------------------------------------------------------------------------------

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that names the plugin, made small.

        Raises:
            PluginError: none is given, and no installed task will do.
        """
        return self._whole_recipe.override(**_SMALL).resolved()

    @cached_property
    def _whole_recipe(self) -> Recipe:
        if self._given is not None:
            given = self._given
            return self._named_in(given if isinstance(given, Recipe) else Recipe.load(given))
        tasks = _tasks_with_samples()
        if own := [task for task in tasks if self._is_named_in(task)]:
            return own[0]
        if not tasks or self.has("toolkit_model"):
            raise PluginError(
                f"no installed task names the plugin '{self.name}' and ships a sample",
                hint="give a recipe to check it in: "
                f"check_plugin('{self.name}', recipe='small.yaml'), or --recipe small.yaml",
            )
        return self._named_in(tasks[0])

    def _is_named_in(self, recipe: Recipe) -> bool:
        return bool({self.name, self.called} & {*recipe.plugins})

    def _named_in(self, recipe: Recipe) -> Recipe:
        if self._is_named_in(recipe):
            return recipe
        return recipe.override(plugins=[*recipe.plugins, self.called])

    @property
    def recipe_name(self) -> str | None:
        """None where there is no recipe to check the plugin in."""
        try:
            return self._whole_recipe.name
        except (Exception, SystemExit):  # of an import, which a law reports
            return None

    # ---- the hooks -------------------------------------------------------------------------------------------

    def has(self, hook: str) -> bool:
        """Whether the plugin has an implementation of the hook."""
        return hasattr(getattr(self.plugin.load(), hook, None), "toolkit_impl")

    def asked_for(self, *hooks: str) -> None:
        """Raise `DoesNotApply` unless the plugin has one of these hooks."""
        if not any(map(self.has, hooks)):
            raise DoesNotApply(f"the plugin has no {', no '.join(hooks)}")

    @property
    def owns_its_step(self) -> bool:
        return self.plugins.step() is not None

    @cached_property
    def plugins(self) -> Plugins:
        return Plugins(self.recipe)

    # ---- data and model --------------------------------------------------------------------------------------

    @cached_property
    def splits(self) -> dict[str, Rows]:
        from toolkit.opening import open_data

        return open_data(self.plugins, None)

    @cached_property
    def loaded(self) -> tuple[Any, Any]:
        """The model, adapted, and its processor. The model is never changed; work on a copy."""
        from toolkit.opening import open_model

        return open_model(self.plugins, (None, None), int(self.recipe.train.get("seed", 42)))

    @property
    def processor(self) -> Any:
        return self.loaded[1]

    @cached_property
    def raw_rows(self) -> list[Row]:
        """Training rows that can be used, as they are before `toolkit_prepare`.

        Raises:
            DataError: there are none.
        """
        return self._usable(self.splits["train"])

    @cached_property
    def many_rows(self) -> list[Row]:
        """More of them."""
        from toolkit.opening import open_data

        more = self.plugins.with_recipe(self.recipe.override(data={"limit": MANY_ROWS}))
        return self._usable(open_data(more, None)["train"])

    def _usable(self, rows: Rows) -> list[Row]:
        found = []
        for place, row_id in enumerate(rows.ids):
            try:
                row = {**rows[place], "row_id": row_id}
                self.prepare(row)
            except DataError:
                continue
            found.append(row)
        if not found:
            raise DataError("no row of the train split can be used", hint="give a recipe with rows that can")
        return found

    def prepare(self, row: Row) -> Row:
        """What the collator is given of a raw row, which stays as it is."""
        prepare = self._prepare
        given = copy.deepcopy(row)
        return {**prepare(given), "row_id": row["row_id"]} if prepare is not None else given

    @cached_property
    def _prepare(self) -> Any:
        return self.plugins.prepare(self.processor)

    @cached_property
    def collator(self) -> Any:
        return self.plugins.collator(self.processor)

    def whole_batches(self, size: int) -> Rows:
        """Training rows, as many as make whole batches.

        Raises:
            DoesNotApply: there are too few.
        """
        train = self.splits["train"]
        if len(train) < size:
            raise DoesNotApply(f"it takes {size} training rows, the recipe's data has {len(train)}")
        return train[: len(train) // size * size]

    @cached_property
    def tolerance(self) -> float:
        """How far apart, relatively, two sums may be that should be the same."""
        return FLOAT64 if self.is_exact else FLOAT32

    @cached_property
    def is_exact(self) -> bool:
        """Whether model and plugin can compute in float64."""
        from toolkit.testing.training import works_in_float64

        return works_in_float64(self)

    @cached_property
    def trained_at_once(self) -> Trained:
        """Two steps of four rows each, in one process."""
        from toolkit.testing.training import trained

        return trained(self, per_device_train_batch_size=4)

    @cached_property
    def finished_run(self) -> Run:
        """A run of the recipe, with its trained model in memory."""
        from toolkit.runs import run

        return run(self.recipe, self.folder / "finished")

    def batch(self, rows: Sequence[Row] | None = None) -> Batch:
        """Some raw rows, or all of `raw_rows`, as one batch."""
        from toolkit.data.columns import in_batches, with_columns

        prepared = [self.prepare(row) for row in (self.raw_rows if rows is None else rows)]
        return with_columns(self.collator(prepared), prepared, in_batches(self.plugins.columns()))


def _tasks_with_samples() -> list[Recipe]:
    """The installed tasks that run offline; those that cannot be loaded are somebody else's trouble."""
    found = []
    for task in installed("task"):
        try:
            recipe = Recipe.load(task.name)
        except ToolkitError:
            continue
        if recipe.sample is not None and {"model", "data"} <= {*recipe.sample}:
            found.append(recipe)
    return found
