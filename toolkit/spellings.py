"""Older spellings of training arguments, and what they are called today."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from toolkit.errors import RecipeError
from toolkit.notices import say_once

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
}
GONE = {
    "fp16_backend": "mixed precision is torch's own: leave it out",
    "half_precision_backend": "mixed precision is torch's own: leave it out",
    "jit_mode_eval": "use torch_compile",
    "overwrite_output_dir": "leave it out: nothing is overwritten, another run wants another output_dir",
    "past_index": "override compute_loss in a subclass of Trainer",
    "save_safetensors": "leave it out: weights are always saved as safetensors",
    "tpu_num_cores": "start the processes with accelerate or torchrun",
    "use_ipex": "leave it out: torch has what it did",
    "use_mps_device": "leave it out: the device that is there is used, unless use_cpu says otherwise",
}
_SAME_OPTIMIZER = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}
_JUST_BELOW_ONE = math.nextafter(1.0, 0.0)


def modern(arguments: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Training arguments in today's spelling; each older one is noted once.

        >>> modern({"eval_strategy": "epoch", "learning_rate": 1e-4})
        {'eval_strategy': 'epoch', 'learning_rate': 0.0001}

    Args:
        where: put before the names in errors, as in `train.`.
    Raises:
        RecipeError: an argument exists no more, or is given in both spellings; all faults together.
    """
    values, faults = dict(arguments), []
    for old in [key for key in values if key in GONE]:
        faults.append(RecipeError(f"{where}{old}: exists no more", hint=GONE[old]))
    for old in [key for key in values if key in RENAMED]:
        new = RENAMED[old]
        if new in values:
            faults.append(
                RecipeError(f"{where}{old}: an older name of {new}, which is given too", hint=f"keep {new}")
            )
        else:
            values[new] = values.pop(old)
            say_once(f"{where}{old} is called {new} today")
    faults += _warmup(values, where)
    _optimizer(values, where)
    if faults:
        raise RecipeError.gather(faults)
    return values


def _warmup(values: dict[str, Any], where: str) -> list[RecipeError]:
    """A ratio is a number of steps below 1 today; steps that are given as well count more, as they always did."""
    if "warmup_ratio" not in values:
        return []
    ratio = values.pop("warmup_ratio")
    if ratio is None:
        return []
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
        return [RecipeError(f"{where}warmup_ratio: expected a number from 0 to 1, found {ratio!r}",
                            hint=f"{where}warmup_steps=0.1 warms up for a tenth of all steps")]  # fmt: skip
    if values.get("warmup_steps"):
        say_once(f"{where}warmup_ratio does nothing, since {where}warmup_steps is given")
    else:
        values["warmup_steps"] = min(float(ratio), _JUST_BELOW_ONE)
        say_once(f"{where}warmup_ratio={ratio} is spelt {where}warmup_steps={ratio} today")
    return []


def _optimizer(values: dict[str, Any], where: str) -> None:
    optimizer = values.get("optim")
    if isinstance(optimizer, str) and optimizer in _SAME_OPTIMIZER:
        values["optim"] = _SAME_OPTIMIZER[optimizer]
        say_once(f"{where}optim={optimizer} is {values['optim']} today")
