"""AdaLoRA's part in the training loop, which PEFT leaves to its caller: sharing out ranks, a penalty on the factors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from toolkit.errors import RecipeError

FILE = "ranks.safetensors"
_UNKNOWN = 2**31 - 1
"""`total_step` until training says how many there are."""


def until_known(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config; for AdaLoRA with a `total_step`, which only the trainer knows."""
    return {"total_step": _UNKNOWN, **values} if cls is AdaLoraConfig else dict(values)


def adalora_of(model: Any) -> Any:
    """PEFT's AdaLoRA model around the base, or None where the adapter is of another kind, or does not train."""
    inner = model.base_model if isinstance(model, PeftModel) else None
    trains = isinstance(inner, AdaLoraModel) and not model.active_peft_config.inference_mode
    return inner if trains else None


class Ranks(TrainerCallback):
    """Moves rank, after each step, from the weights that matter less to those that matter more."""

    def __init__(self, adalora: Any) -> None:
        self.adalora = adalora
        self.config = adalora.peft_config[adalora.trainable_adapter_name]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.config.total_step == _UNKNOWN:
            self.adalora.rankallocator.set_total_step(state.max_steps)
        if self.config.tinit >= self.config.total_step - self.config.tfinal:
            raise RecipeError(
                f"adapter: tinit {self.config.tinit} and tfinal {self.config.tfinal} leave none of the "
                f"{self.config.total_step} steps to share out ranks in",
                hint="make them smaller, or train for longer",
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any(one.grad is not None for one in self.adalora.parameters()):  # else the step was skipped
            self.adalora.update_and_allocate(state.global_step + 1)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Have PEFT save weights of no rank as zeros, where they are, so that training can go on with them."""
        pattern, self.config.rank_pattern = self.config.rank_pattern, None
        try:
            yield
        finally:
            self.config.rank_pattern = pattern

    def save(self, folder: Path) -> None:
        """Keep what the ranks have mattered so far."""
        ranks = self.adalora.rankallocator
        kept = {f"{kind}/{name}": one for kind in _SCORES for name, one in getattr(ranks, kind).items()}
        pattern = self.config.rank_pattern or {}
        kept |= {f"pattern/{name}": torch.tensor(chosen) for name, chosen in pattern.items()}
        save_file({name: tensor.contiguous() for name, tensor in kept.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up what a checkpoint of ours has kept; one of a script for upstream has nothing."""
        if not (folder / FILE).is_file():
            return
        ranks, pattern = self.adalora.rankallocator, {}
        for key, tensor in load_file(folder / FILE).items():
            kind, _, name = key.partition("/")
            if kind == "pattern":
                pattern[name] = tensor.tolist()
            else:
                getattr(ranks, kind)[name] = tensor
        self.config.rank_pattern = pattern or None


_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


def orthogonality(adalora: Any) -> torch.Tensor:
    """The penalty on factors that are not orthogonal: the mean of |A A' - 1| and |B' B - 1|, weighted; a scalar.

    Source: Zhang et al. 2023, AdaLoRA, equation 4; the norms are not squared, as in PEFT.
    """
    name = adalora.trainable_adapter_name
    distances = []
    for path, one in adalora.model.named_parameters():
        if path.endswith((f"lora_A.{name}", f"lora_B.{name}")):
            product = one @ one.T if "lora_A" in path else one.T @ one
            distances.append(torch.linalg.matrix_norm(product - torch.eye(len(product)).to(product)))
    return torch.stack(distances).mean() * float(adalora.peft_config[name].orth_reg_weight)
