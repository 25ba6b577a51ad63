"""A run's model as a folder of its own: as the run saved it, or with the adapter merged into the base model."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from toolkit.card import write_card
from toolkit.errors import CheckpointError, DataError, ModelError
from toolkit.execution import Execution
from toolkit.folder import RunFolder, expanded
from toolkit.metrics import Scores
from toolkit.models import quiet
from toolkit.opening import GIVEN_IN_CODE, open_data, open_saved, open_trained, refuse_damaged
from toolkit.plugins import Plugins
from toolkit.reach import lies_in
from toolkit.signals import Signals

MOST_ROWS = 16
TOLERANCE, TOLERANCE_FROM_QUANTIZED = 0.01, 0.05
"""How far a metric may move by merging: this much, and this share of it."""
MOST_DIFFERENT = 0.25
"""The share of rows of which the merged model may make something else, where two answers are as good as equal."""
FROM_QUANTIZED = (
    "the adapter was trained on quantized weights and does not fit the full-precision ones as well: "
    "export it without --merge, or train without model.quantization"
)
NOTHING_TO_MERGE = "the run trained every weight: there is nothing to merge, its model is copied"


def export(plugins: Plugins, files: RunFolder, to: Path, *, merge: bool, data: Any = None) -> dict[str, Any]:
    """Write a finished run's model to a new or empty folder.

    Args:
        merge: one model without an adapter, measured beside the unmerged one on a few of the run's rows.
        data: the run's rows where they were given in code.
    Returns:
        `folder`; `merged`; `compared`: `{"split", "rows", "unmerged", "merged", "outputs"}` or None; `note`, what to
        know of it.
    Raises:
        CheckpointError: the run is not finished, its model is damaged, the folder cannot be written to, or merging
            changes the model. Then the folder is as it was.
    """
    _refuse_unfinished(files)
    _refuse_links_out(files)
    refuse_damaged(files)
    try:
        target = _new_place(files, to)
    except OSError as error:
        raise _not_written(to, error) from error
    merges = merge and files.has_adapter
    compared, note = None, NOTHING_TO_MERGE if merge and not merges else None
    with Signals().listening() as signals, _made_whole(target) as folder:
        if merges:
            compared, note = _Merging(plugins, files, signals, data).into(folder)
        else:
            shutil.copytree(files.model, folder, dirs_exist_ok=True)
    return {"folder": str(target), "merged": merges, "compared": compared, "note": note}


# ---- the place -----------------------------------------------------------------------------------------------


def _refuse_unfinished(files: RunFolder) -> None:
    status = files.read_summary().get("status", "unfinished")
    if status != "finished":
        raise CheckpointError(
            f"the run in {files.path} is {status}: there is no final model to export",
            hint=f"go on with it: toolkit resume {files.path}",
        )


def _refuse_links_out(files: RunFolder) -> None:
    """What a run has saved are files of its own; a link in a stranger's run would have others copied."""
    for path in (files.model, *files.model.rglob("*")):
        if path.is_symlink() and not lies_in(path, [files.path]):
            raise CheckpointError(
                f"{path} is a link out of the run's folder", hint="put the file itself into the folder"
            )


def _new_place(files: RunFolder, to: Path) -> Path:
    target, own = expanded(to).resolve(), files.path.resolve()
    if target == own or own in target.parents:
        raise CheckpointError(
            f"{to} lies in the run's own folder {files.path}", hint="name a folder outside it with --to"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(
            f"{to} is there already and is no empty folder", hint="name another folder with --to"
        )
    return target


@contextmanager
def _made_whole(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` in the end; if anything fails, no trace of it stays."""
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    made = [parent for parent in partial.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            if parent.exists():
                parent.rmdir()
        if isinstance(error, (SafetensorError, shutil.Error)) or (isinstance(error, OSError) and error.errno):
            raise _not_written(target, error) from error
        raise


def _not_written(place: Path, error: BaseException) -> CheckpointError:
    reason = error.args[0][0][2] if isinstance(error, shutil.Error) else getattr(error, "strerror", error)
    return CheckpointError(
        f"{place} cannot be written: {reason}",
        hint="see to rights and room, or name another folder with --to",
    )


# ---- merging -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Merging:
    """The adapter of a run and its base model in full precision, made one."""

    plugins: Plugins
    files: RunFolder
    signals: Signals
    data: Any

    def into(self, folder: Path) -> tuple[dict[str, Any] | None, str | None]:
        """Save the merged model, its processor and card, load it again, and compare it with the unmerged one.

        Returns:
            What was compared, or None and why not.
        """
        if self.plugins.recipe.model.name == GIVEN_IN_CODE:
            raise ModelError(
                "the run's base model was given in code", hint="merge it there: run.model.merge_and_unload()"
            )
        splits, why_not = self._few_rows()
        unmerged = self._measured(splits, *open_trained(self.plugins, self.files)) if splits else None
        self.signals.poll()
        self._save_merged(folder)
        merged = open_saved(self.plugins, folder)
        if unmerged is None:
            return None, f"the merged model was not compared with the unmerged one: {why_not}"
        measured = self._measured(splits, *merged)
        directions = Scores(self.plugins.metrics(merged[1])).higher_is_better()
        quantized = self.plugins.recipe.model.quantization != "none"
        refuse_if_changed(unmerged["metrics"], measured["metrics"], directions, quantized=quantized)
        outputs = same_outputs(unmerged["outputs"], measured["outputs"], quantized=quantized)
        values = {"unmerged": unmerged["metrics"], "merged": measured["metrics"], "outputs": outputs}
        return {"split": measured["split"], "rows": measured["rows"], **values}, None

    def _save_merged(self, folder: Path) -> None:
        model, _ = open_trained(self.plugins, self.files, full_precision=True)
        if model.active_peft_config.is_prompt_learning:
            raise CheckpointError(
                "the adapter is virtual tokens, which no weights can hold", hint="export it without --merge"
            )
        try:
            with quiet():
                model.merge_and_unload(safe_merge=True).save_pretrained(folder)
        except (ValueError, NotImplementedError) as error:  # NaN in a weight, or a kind that cannot be merged
            raise CheckpointError(
                f"the adapter cannot be merged: {error}", hint="export it without --merge"
            ) from error
        not_these = shutil.ignore_patterns("README.md", "adapter_*")
        shutil.copytree(self.files.model, folder, ignore=not_these, dirs_exist_ok=True)
        recipe, summary = self.plugins.recipe.without_secrets(), self.files.read_summary()
        write_card(folder, recipe, summary, self.files.read_environment())

    def _few_rows(self) -> tuple[dict[str, Any], str]:
        """The rows to compare on, by split, or none and the reason."""
        limits = (MOST_ROWS, self.plugins.recipe.eval.max_samples or MOST_ROWS)
        few = self.plugins.recipe.override(eval={"max_samples": min(limits)})
        try:
            splits = open_data(self.plugins.with_recipe(few), self.data)
        except DataError as error:
            return {}, error.message
        measured = {name: rows for name, rows in splits.items() if name != "train"}
        return measured, "the run has no test and no validation rows"

    def _measured(self, splits: Any, model: Any, processor: Any) -> dict[str, Any]:
        execution = Execution(
            self.plugins, self.files, splits, model, processor, self.signals, training=False
        )
        split = execution.measured_split
        assert split is not None
        recipe = self.plugins.recipe.override(train={"do_predict": True})
        with execution.trainer.predicting(self.plugins.with_recipe(recipe)):
            metrics = execution.evaluate(split)
        outputs = {one.row_id: one.prediction for one in execution.trainer.samples}
        return {"split": split, "metrics": metrics, "rows": execution.used(split), "outputs": outputs}


def refuse_if_changed(
    unmerged: Mapping[str, float],
    merged: Mapping[str, float],
    higher_is_better: Mapping[str, bool],
    *,
    quantized: bool,
) -> None:
    """Compare the metrics of a model before and after merging.

    Args:
        quantized: the unmerged model's base was, so the merged one may be better, and need not be as close.
    Raises:
        CheckpointError: a metric has moved by more than the tolerance, or there is no number to compare with. Only a
            metric other than the loss may have no value on the rows, neither before nor after.
    """
    tolerance = TOLERANCE_FROM_QUANTIZED if quantized else TOLERANCE
    for name, before in unmerged.items():
        if name != "loss" and math.isnan(before) and math.isnan(merged[name]):
            continue
        if not math.isfinite(before):
            raise CheckpointError(
                f"the merged model cannot be compared with the unmerged one, whose {name} is {before:.4f}",
                hint="export it without --merge, and see to what it makes of its rows",
            )
        change = merged[name] - before
        better = math.isfinite(change) and (change > 0) == higher_is_better[name]
        if not (quantized and better) and _beyond(change, before, tolerance):
            raise CheckpointError(
                f"merging changes the model: {name} is {merged[name]:.4f} merged, {before:.4f} unmerged",
                hint=FROM_QUANTIZED if quantized else "export it without --merge, as it was measured",
            )


def same_outputs(
    unmerged: Mapping[int, str | float], merged: Mapping[int, str | float], *, quantized: bool
) -> dict[str, int] | None:
    """How many rows a model makes the same of, before and after merging; None where it makes nothing to compare.

    Raises:
        CheckpointError: for a base that was not quantized, too many differ.
    """
    same = sum(_same(merged[row], output) for row, output in unmerged.items() if row in merged)
    different = len(unmerged) - same
    if not quantized and different > MOST_DIFFERENT * len(unmerged):
        raise CheckpointError(
            f"merging changes the model: of {different} of {len(unmerged)} rows it makes something else",
            hint="export it without --merge, as it was measured",
        )
    return {"same": same, "of": len(unmerged)} if unmerged else None


def _same(one: str | float, other: str | float) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return one == other


def _beyond(change: float, before: float, tolerance: float) -> bool:
    return not math.isfinite(change) or abs(change) > tolerance * (1 + abs(before))
