"""Losses and gradients over blocks of rows, against autograd through all scores at once, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from toolkit_clip import loss, slopes
from toolkit_clip.slopes import GRADIENTS
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

NAMES = ("infonce", "siglip")


def leaves(rows: int, kind: torch.dtype = torch.float64) -> list[Tensor]:
    """Images, texts, log of the scale and bias."""
    generator = torch.Generator().manual_seed(rows)
    both = (torch.randn(rows, 5, generator=generator, dtype=kind) for _ in range(2))
    features = [torch.nn.functional.normalize(one, dim=-1) for one in both]
    return [one.requires_grad_() for one in (*features, *torch.tensor([2.66, -3.0], dtype=kind).unbind())]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("cells", [1, 20, 1 << 22])
def test_blocks_give_what_autograd_gives(
    name: str, rows: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slopes, "CELLS", cells)
    total = loss.LOSSES[name](*leaves(rows))
    found = GRADIENTS[name](*leaves(rows))
    given = leaves(rows)
    expected = torch.autograd.grad(loss.LOSSES[name](*given), given, allow_unused=True)
    assert float(found.total) == pytest.approx(float(total.detach()), rel=1e-12, abs=1e-12)
    for one, other in zip((found.images, found.texts, found.log_scale, found.bias), expected, strict=True):
        if other is None:
            assert one is None
            assert name == "infonce"
        else:
            assert one is not None
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_large_scores_stay_finite(name: str) -> None:
    images, texts, _, bias = (one.detach().float() for one in leaves(64))
    found = GRADIENTS[name](images, texts, torch.tensor(math.log(100)), bias)
    expected = loss.LOSSES[name](images, texts, torch.tensor(math.log(100)), bias)
    assert float(found.total) == pytest.approx(float(expected), rel=1e-5)
    assert all(bool(one.isfinite().all()) for one in (found.images, found.texts, found.log_scale))


class Largest(TorchDispatchMode):
    """The most values that a tensor made meanwhile has."""

    values = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.values = max(self.values, made.numel())
        return made


@pytest.mark.parametrize("name", NAMES)
def test_the_scores_of_all_rows_are_never_held(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slopes, "CELLS", 1024)
    for rows, most in ((16, 256), (128, 1024), (512, 512 * 5)):  # all scores; a block of them; the features
        with Largest() as largest:
            GRADIENTS[name](*(one.detach() for one in leaves(rows)))
        assert largest.values == most
