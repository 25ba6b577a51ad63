"""Weights in few bits, by bitsandbytes or by a plugin."""

from __future__ import annotations

import importlib.util
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from toolkit.errors import ModelError, RecipeError, did_you_mean
from toolkit.recipe import ModelSpec
from toolkit.structure import show, unknown_key

_WHERE = "model.quantization"
_CHOICES = {
    "bnb_4bit_quant_type": ("nf4", "fp4"),
    "bnb_4bit_compute_dtype": ("float32", "bfloat16", "float16"),
    "bnb_4bit_quant_storage": ("uint8", "float16", "float32", "bfloat16"),
}


class _SaidOften(logging.Filter):
    """What bitsandbytes says at every multiplication, and nobody can mend."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.msg.startswith("MatMul8bitLt: inputs will be cast")


logging.getLogger("bitsandbytes.autograd._functions").addFilter(_SaidOften())


Arguments = Callable[[], Mapping[str, Any]]
"""What to pass to `from_pretrained`, made when it is needed."""
_backend: ContextVar[Arguments | None] = ContextVar("_backend", default=None)


@contextmanager
def quantized_by(backend: Arguments) -> Iterator[None]:
    """Have models that are loaded in this block, and are to be quantized, quantized so, and not by bitsandbytes."""
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def quantization_arguments(spec: ModelSpec) -> dict[str, Any]:
    """What to pass to `from_pretrained` so that the model is quantized as it is loaded: as a plugin has it, or else:

    `4bit` is QLoRA's: NormalFloat, its constants quantized a second time. It computes in bfloat16 on a GPU that can,
    in float16 on one that cannot, and in float32 on a CPU, where half precision saves no time and loses digits.
    `8bit` is LLM.int8(). A mapping is fields of `transformers.BitsAndBytesConfig`, with that class's defaults.

    Raises:
        RecipeError: a field is unknown or wrong.
        ModelError: bitsandbytes is not installed.
    Source: Dettmers et al. 2023, QLoRA, section 3; Dettmers et al. 2022, LLM.int8().
    """
    if spec.quantization == "none":
        return {}
    if (backend := _backend.get()) is not None:
        return dict(backend())
    fields = _fields(spec.quantization)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"{_WHERE}: {show(spec.quantization)} needs bitsandbytes", hint="pip install bitsandbytes"
        )
    from transformers import BitsAndBytesConfig

    try:
        return {"quantization_config": BitsAndBytesConfig(**fields)}
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{_WHERE}: {error}", hint="see transformers.BitsAndBytesConfig") from error


def check_packed(model: Any, place: str) -> None:
    """Raise `ModelError` if the weights of bitsandbytes' layers are not in few bits, whatever config.json says."""
    for name, module in model.named_modules():
        is_plain = type(getattr(module, "weight", None)).__name__ == "Parameter"
        if is_plain and type(module).__name__ in ("Linear4bit", "Linear8bitLt"):
            raise ModelError(
                f"config.json of {place} says that the weights are quantized, and {name} is not",
                hint=f"take quantization_config out of it; {_WHERE} quantizes weights as they are loaded",
            )


def keep_unpacked(model: Any) -> None:
    """Have 4-bit weights stay as they were loaded, so that a model that was evaluated can still be trained.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks them at the first forward in evaluation mode. Packed, their
    scales are rounded to bfloat16, and no gradient passes back through them: adapters would silently not train.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _fields(quantization: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(quantization, Mapping):
        if faults := _faults(quantization):
            raise RecipeError.gather(faults)
        return dict(quantization)
    if quantization == "8bit":
        return {"load_in_8bit": True}
    if quantization == "4bit":
        return {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": _compute_dtype(),
        }
    raise RecipeError(
        f"{_WHERE}: expected none, 4bit, 8bit or a mapping, found {show(quantization)}",
        hint="choose one of them",
    )


def _faults(given: Mapping[str, Any]) -> list[RecipeError]:
    from transformers import BitsAndBytesConfig

    names = [name for name in inspect.signature(BitsAndBytesConfig).parameters if name != "kwargs"]
    faults = [unknown_key(f"{_WHERE}.{key}", key, names) for key in given if key not in names]
    for key, choices in _CHOICES.items():
        if key in given and given[key] not in choices:
            faults.append(
                RecipeError(
                    f"{_WHERE}.{key}: expected {' or '.join(choices)}, found {show(given[key])}",
                    hint=did_you_mean(str(given[key]), choices) or "choose one of them",
                )
            )
    if not given.get("load_in_4bit") and not given.get("load_in_8bit"):
        faults.append(
            RecipeError(
                f"{_WHERE}: does not say how many bits", hint="add load_in_4bit: true or load_in_8bit: true"
            )
        )
    return faults


def _compute_dtype() -> str:
    import torch

    if not torch.cuda.is_available():
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
