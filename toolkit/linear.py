"""Linear layers on a CPU, by oneDNN where MKL would make half as much of the processor.

torch has MKL compute float32 products. On processors with AVX-512 that are not Intel's, MKL goes without it: there
oneDNN, which is in torch too, takes less than half the time. The sums are the same, rounded in another order.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

SMALL = 8192
"""Weights of a layer, below which Python takes longer than the product."""


@functools.cache
def is_swifter() -> bool:
    """Whether this is such a processor, and torch has what it takes."""
    return (
        bool(torch.backends.mkl.is_available())  # type: ignore[no-untyped-call]
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and "GenuineIntel" not in _processor()
    )


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    return described.read_text(encoding="utf-8") if described.is_file() else platform.processor()


@contextmanager
def swift_linear(model: nn.Module) -> Iterator[None]:
    """Meanwhile the model's linear layers in float32 are computed in the swifter way, where there is one."""
    layers: list[Any] = [*filter(_may_be_swifter, model.modules())] if is_swifter() else []
    for layer in layers:
        layer.forward = functools.partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _may_be_swifter(layer: nn.Module) -> bool:
    """Whether it is an ordinary one, nobody else has changed it, and it is large enough to be worth a call of ours."""
    return type(layer) is nn.Linear and "forward" not in vars(layer) and layer.weight.numel() >= SMALL


def _forward(layer: nn.Linear, given: Tensor) -> Tensor:
    weight, bias = layer.weight, layer.bias
    if not _is_plain(given, weight) or torch.is_autocast_enabled("cpu"):
        return linear(given, weight, bias)
    if torch.is_grad_enabled() and (
        given.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    ):
        return _Linear.apply(given, weight, bias)  # type: ignore[no-any-return]
    return _product(given, weight, bias)


def _is_plain(given: Tensor, weight: Tensor) -> bool:
    """Whether it is for oneDNN; a single row is as quick by MKL."""
    kinds = {given.dtype, weight.dtype} == {torch.float32} and {given.device.type, weight.device.type} == {
        "cpu"
    }
    return kinds and given.numel() > given.shape[-1]


def _product(given: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`given` (..., in) times `weight` (out, in), which may be the transpose of what is stored: (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")  # type: ignore[no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, given: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        wanted = context.needs_input_grad
        context.save_for_backward(given if wanted[1] else None, weight if wanted[0] else None)
        return _product(given, weight, bias)

    @staticmethod
    def backward(context: Any, *upward: Tensor) -> tuple[Tensor | None, ...]:
        given, weight = context.saved_tensors
        slope = upward[0]
        product = linear if torch.is_grad_enabled() else _product  # the gradient may have one itself
        rows = slope.flatten(0, -2)
        of_given = product(slope, weight.t()) if context.needs_input_grad[0] else None
        of_weight = product(rows.t(), given.flatten(0, -2).t()) if context.needs_input_grad[1] else None
        of_bias = rows.sum(0) if context.needs_input_grad[2] else None
        return of_given, of_weight, of_bias
