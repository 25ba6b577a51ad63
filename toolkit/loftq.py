"""LoftQ: low-rank factors that start as what quantization takes from the weights, computed on any device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open
from torch import nn

from toolkit.errors import ModelError, RecipeError
from toolkit.model_files import weight_files

BITS = (4, 8)
DEFAULTS = {"loftq_bits": 4, "loftq_iter": 1}
_BITS_OF = {"Params4bit": 4, "Int8Params": 8}


def factors(
    weight: torch.Tensor, rank: int, scaling: float, bits: int, iterations: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Q, A and B with `Q + scaling * B @ A` close to the weight, and Q one that `bits` bits can hold.

    Each iteration quantizes what the factors leave, to NF4 (4 bits) or int8 by rows (8 bits), then takes the best
    factors of what is still missing.

    Args:
        weight: (outputs, inputs).
    Returns:
        Q, dequantized, (outputs, inputs); A (rank, inputs); B (outputs, rank). All in float32.
    Source: Li et al. 2023, LoftQ, algorithm 1.
    """
    weight = weight.detach().float()
    low_rank = torch.zeros_like(weight)
    for _ in range(iterations):
        quantized = _through(weight - low_rank, bits)
        a, b = best_factors(weight - quantized, rank, scaling)
        low_rank = scaling * b @ a
    return quantized, a, b


def best_factors(residual: torch.Tensor, rank: int, scaling: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A (rank, inputs) and B (outputs, rank) whose `scaling * B @ A` is nearest to the residual in squared error.

    Source: Eckart and Young 1936.
    """
    u, s, v = torch.linalg.svd(residual.float(), full_matrices=False)
    share = (s[:rank] / scaling).sqrt()
    rows, columns = residual.new_zeros(rank, residual.shape[1]), residual.new_zeros(residual.shape[0], rank)
    rows[: len(share)], columns[:, : len(share)] = share[:, None] * v[:rank], u[:, :rank] * share
    return rows, columns


def _through(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The weight, quantized and dequantized."""
    from bitsandbytes import functional

    if bits == 4:
        codes, state = functional.quantize_4bit(weight.contiguous(), quant_type="nf4")
        restored: torch.Tensor = functional.dequantize_4bit(codes, state)
        return restored
    largest = weight.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return (weight / largest * 127).round() * largest / 127


# ---- settings ------------------------------------------------------------------------------------------------


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """`loftq_config` with its defaults; `quantization_level` is an older name of `loftq_bits`."""
    values = dict(given)
    if "quantization_level" in values:
        values.setdefault("loftq_bits", values.pop("quantization_level"))
    return {**DEFAULTS, **values}


def faults(given: Mapping[str, Any], quantization: Any = None) -> list[RecipeError]:
    """What is wrong with a `loftq_config`.

    Args:
        quantization: of the recipe's model, where there is a recipe.
    """
    where, found = "adapter.loftq_config", []
    values = settings(given)
    for key in values.keys() - DEFAULTS.keys():
        found.append(RecipeError(f"{where}.{key}: unknown key '{key}'", hint=f"it has {', '.join(DEFAULTS)}"))
    if values["loftq_bits"] not in BITS or isinstance(values["loftq_bits"], bool):
        found.append(
            RecipeError(f"{where}.loftq_bits: must be 4 or 8, found {values['loftq_bits']}", "4 is usual")
        )
    if type(values["loftq_iter"]) is not int or values["loftq_iter"] < 1:
        found.append(
            RecipeError(
                f"{where}.loftq_iter: must be a whole number of at least 1, found {values['loftq_iter']}",
                hint="1 gains the most",
            )
        )
    if quantization == "none":
        found.append(
            RecipeError(
                "adapter.init_lora_weights: 'loftq' makes up for quantization, and the model is not quantized",
                hint="--set model.quantization=4bit",
            )
        )
    elif quantization is not None and values["loftq_iter"] != 1:
        found.append(_fixed_base(values["loftq_iter"]))
    return found


def _fixed_base(iterations: int) -> RecipeError:
    return RecipeError(
        f"adapter.loftq_config.loftq_iter: {iterations} iterations would change the quantized weights, which whoever "
        "loads the adapter takes as they are",
        hint="leave it at 1, which gains the most",
    )


# ---- models --------------------------------------------------------------------------------------------------


@contextmanager
def computed_here(model: nn.Module) -> Iterator[None]:
    """PEFT, which computes LoftQ only where there is a CUDA or XPU device, has it computed here meanwhile.

    Layers of a quantized model keep their weights, and the factors start as what is missing of the checkpoint's;
    those of any other model get quantized weights, dequantized.

    Raises:
        ModelError: the weights before quantization cannot be found.
        RecipeError: settings that the model's quantization forbids.
    """
    start = _Start(model)

    def loftq_init(layer: LoraLayer, adapter_name: str, config: Any) -> None:
        start.of(layer, adapter_name, config)

    before = LoraLayer.loftq_init
    LoraLayer.loftq_init = loftq_init
    try:
        yield
    finally:
        LoraLayer.loftq_init = before


class _Start:
    """Where the layers of one model start."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.checkpoint: _Checkpoint | None = None
        self.missing: dict[int, torch.Tensor] = {}
        """What repeated layers, which share their weights, lack of them."""

    @torch.no_grad()
    def of(self, layer: Any, adapter: str, config: Any) -> None:
        if adapter not in layer.lora_A:
            raise RecipeError(
                f"adapter.init_lora_weights: 'loftq' is for linear layers, not {type(layer.get_base_layer()).__name__}",
                hint="leave such layers out of target_modules",
            )
        a, b = self._factors(layer, layer.r[adapter], layer.scaling[adapter], config)
        layer.lora_A[adapter].weight.data = a.to(layer.lora_A[adapter].weight)
        layer.lora_B[adapter].weight.data = b.to(layer.lora_B[adapter].weight)

    def _factors(
        self, layer: Any, rank: int, scaling: float, config: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        base, wanted = layer.get_base_layer(), settings(config.loftq_config)
        weight, turned = base.weight, layer.fan_in_fan_out
        bits = _BITS_OF.get(type(weight).__name__)
        if bits is not None:
            _refuse_other_bits(wanted, bits)
            return best_factors(self._original(base) - dequantize_module_weight(base).float(), rank, scaling)
        if id(weight) in self.missing:
            return best_factors(self.missing[id(weight)], rank, scaling)
        before = (weight.T if turned else weight).detach().float()
        quantized, a, b = factors(before, rank, scaling, wanted["loftq_bits"], wanted["loftq_iter"])
        weight.data = (quantized.T if turned else quantized).to(weight)
        if config.layer_replication:
            self.missing[id(weight)] = before - quantized
        return a, b

    def _original(self, base: Any) -> torch.Tensor:
        if self.checkpoint is None:
            self.checkpoint = _Checkpoint(self.model)
        return self.checkpoint.weight(f"{self.names[id(base)]}.weight").to(base.weight.device).float()


def _refuse_other_bits(wanted: Mapping[str, Any], bits: int) -> None:
    if wanted["loftq_iter"] != 1:
        raise _fixed_base(wanted["loftq_iter"])
    if wanted["loftq_bits"] != bits:
        raise RecipeError(
            f"adapter.loftq_config.loftq_bits: {wanted['loftq_bits']}, but the model is quantized to {bits} bits",
            hint=f"loftq_bits: {bits}, or load the model in {wanted['loftq_bits']} bits",
        )


class _Checkpoint:
    """The weights that a model was loaded from, read one by one."""

    def __init__(self, model: Any) -> None:
        self.prefix = f"{getattr(model, 'base_model_prefix', '')}."
        self.place = str(getattr(model, "name_or_path", ""))
        self.file_of: dict[str, Path] = {}
        for path in weight_files(self.place, getattr(model.config, "_commit_hash", None)):
            with safe_open(path, framework="pt") as file:
                self.file_of |= dict.fromkeys(file.keys(), path)

    def weight(self, name: str) -> torch.Tensor:
        for known in (name, name.removeprefix(self.prefix), self.prefix + name):
            if known in self.file_of:
                with safe_open(self.file_of[known], framework="pt") as file:
                    found: torch.Tensor = file.get_tensor(known)
                if found.is_floating_point():
                    return found
        raise ModelError(
            f"'loftq' needs the weights before quantization, and {self.place or 'the model in memory'} has no {name}",
            hint="load a checkpoint in full precision with load_in_4bit, or start from pissa or true",
        )
