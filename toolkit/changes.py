"""Which settings a run that goes on may have otherwise than it began with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.checkpoint import ordered
from toolkit.errors import RecipeError
from toolkit.folder import RunFolder
from toolkit.recipe import Recipe
from toolkit.structure import show

FREE_TO_CHANGE = (
    "cache",
    "data.max_bad_fraction",
    "data.on_error",
    "train.dataloader_num_workers",
    "train.dataloader_persistent_workers",
    "train.dataloader_prefetch_factor",
    "train.logging_dir",
    "train.logging_first_step",
    "train.logging_steps",
    "train.logging_strategy",
    "train.on_nan_inf",
    "train.report_to",
    "train.resume_from_checkpoint",
    "train.run_name",
    "train.save_steps",
    "train.save_strategy",
    "train.save_total_limit",
)
"""What may be set otherwise when a run goes on: neither the weights nor what is measured depend on it."""
_WHAT_TRAINS = ("adapter", "train.optim", "train.optim_args", "train.optim_target_modules")
"""What a checkpoint cannot be taken up without; but for an adapter's dropout."""


def changed_settings(files: RunFolder, recipe: Recipe, allow_changes: bool) -> list[str]:
    """What is set otherwise than in the folder's recipe, a line each.

    Raises:
        RecipeError: something of it would change what the run computes, and that is not allowed, or cannot be.
    """
    there, here = (_with_eval_steps(one.without_secrets().as_dict()) for one in (files.read_recipe(), recipe))
    different = differences(there, here)
    if (newest := ordered(files.checkpoints)[-1:]) and (fixed := [*filter(_decides_what_trains, different)]):
        raise RecipeError(
            f"what trains cannot be changed in a run that has a checkpoint, as that in {files.path}: "
            "the checkpoint would have no place for it\n  " + "\n  ".join(fixed[:8]),
            hint=f"go on as it was: toolkit resume {files.path}, or start another run, from the weights so far if need "
            f"be: --model {newest[0]}",
        )
    refused = [line for line in different if not may_change(line)]
    if refused and not allow_changes:
        raise RecipeError(
            f"the run in {files.path} was begun by another recipe\n  " + "\n  ".join(refused[:8]),
            hint=f"go on by its own: toolkit resume {files.path}, start another run, or insist: --allow-changes",
        )
    return different


def _with_eval_steps(recipe: dict[str, Any]) -> dict[str, Any]:
    """Settings in which it stands how often is evaluated: where nothing is said, as often as is logged."""
    train = recipe["train"]
    if train.get("eval_strategy") == "steps" and not train.get("eval_steps"):
        train = {**train, "eval_steps": train.get("logging_steps", 10)}
    return {**recipe, "train": train}


def may_change(difference: str) -> bool:
    """Whether a setting changes neither the weights nor what is measured."""
    return _is_of(FREE_TO_CHANGE, difference)


def _decides_what_trains(difference: str) -> bool:
    return _is_of(_WHAT_TRAINS, difference) and not difference.partition(": ")[0].endswith("dropout")


def _is_of(settings: Sequence[str], difference: str) -> bool:
    key = difference.partition(": ")[0]
    return any(key == one or key.startswith(f"{one}.") for one in settings)


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for each setting that has another value here than there."""
    theirs, ours = _flat(there), _flat(here)
    return [
        f"{key}: {show(theirs.get(key))} there, {show(ours.get(key))} here"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    ]


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return found
