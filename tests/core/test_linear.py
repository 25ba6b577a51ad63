"""Linear layers by oneDNN: the same sums, in the same places, and only where it is the swifter way."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.core.test_runs import SPLITS, lines
from toolkit import Recipe, load_run, run
from toolkit.linear import _processor, is_swifter, swift_linear

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this torch has no oneDNN",
)


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever processor this is, and however small the layers are."""
    monkeypatch.setattr("toolkit.linear.is_swifter", lambda: True)
    monkeypatch.setattr("toolkit.linear.SMALL", 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that oneDNN is given."""
    from toolkit import linear

    shapes: list[tuple[int, ...]] = []
    product = linear._product

    def noting(given: Tensor, *others: Any) -> Tensor:
        shapes.append(tuple(given.shape))
        return product(given, *others)

    monkeypatch.setattr(linear, "_product", noting)
    return shapes


def block(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10, **options), nn.GELU(), nn.Linear(10, 4, bias=False))


def outcome(model: nn.Module, given: Tensor) -> list[Tensor]:
    """The output, and the gradients of a sum of it, of the input and of all that trains."""
    given = given.detach().requires_grad_()
    made = model(given)
    weights = [one for one in model.parameters() if one.requires_grad]
    return [made, *torch.autograd.grad(made.square().sum(), [given, *weights])]


@pytest.mark.parametrize("trained", [(), (0, 1, 2), (1,), (2,)])
@pytest.mark.parametrize("shape", [(5, 6), (3, 4, 6), (2, 3, 2, 6)])
def test_it_is_torchs_linear(trained: tuple[int, ...], shape: tuple[int, ...], asked: list[Any]) -> None:
    model = block()
    for place, weights in enumerate(model.parameters()):
        weights.requires_grad_(place in trained)
    given = torch.randn(*shape)
    expected = outcome(model, given)
    with swift_linear(model):
        found = outcome(model, given)
        turned = model(given.mT.contiguous().mT)
        with torch.no_grad():
            torch.testing.assert_close(model(given), expected[0])
    assert shape in asked
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(turned, expected[0])


def test_a_gradient_of_gradients() -> None:
    model, given = block(), torch.randn(5, 6, requires_grad=True)

    def penalty() -> list[Tensor]:
        [slope] = torch.autograd.grad(model(given).sum(), given, create_graph=True)
        return list(torch.autograd.grad(slope.square().sum(), list(model.parameters())[:1]))

    expected = penalty()
    with swift_linear(model):
        torch.testing.assert_close(penalty(), expected)


def test_activation_checkpoints() -> None:
    model, given = block(), torch.randn(5, 6, requires_grad=True)
    expected = outcome(model, given)
    with swift_linear(model):
        made = checkpoint(model, given, use_reentrant=False)
        found = torch.autograd.grad(made.square().sum(), [given, *model.parameters()])
    torch.testing.assert_close([made, *found], expected)


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (block(dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)),
        (block(dtype=torch.bfloat16), torch.randn(5, 6, dtype=torch.bfloat16)),
        (block(), torch.randn(1, 6)),
        (block(), torch.randn(6)),
        (block(), torch.randn(0, 6)),
    ],
    ids=["float64", "bfloat16", "one row", "a vector", "no row"],
)
def test_what_is_left_to_torch(model: nn.Module, given: Tensor, asked: list[Any]) -> None:
    model[2].to(given.dtype)  # type: ignore[index]
    expected = model(given)
    with swift_linear(model):
        assert torch.equal(model(given), expected)
    assert not asked


def test_autocast_and_other_kinds_are_left_to_torch(asked: list[Any]) -> None:
    class Own(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            return super().forward(given) + 1

    model = nn.Sequential(Own(6, 6), block())
    with swift_linear(model), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(5, 6)).dtype == torch.bfloat16
    with swift_linear(model[0]):
        model[0](torch.randn(5, 6))
    assert not asked


def test_small_layers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch, asked: list[Any]) -> None:
    monkeypatch.setattr("toolkit.linear.SMALL", 60)
    model = block()
    with swift_linear(model):
        model(torch.randn(5, 6))
    assert asked == [(5, 6)]


def test_everything_is_put_back() -> None:
    model, others = block(), lambda given: given
    model[2].forward = others
    with swift_linear(model):
        inside = copy.deepcopy(model)
        with swift_linear(model):
            pass
        assert "forward" in vars(model[0])
        assert model[2].forward is others
    assert "forward" not in vars(model[0])
    assert model[2].forward is others
    with torch.no_grad():
        inside[0].weight.zero_()
    assert not torch.equal(inside[0](torch.ones(2, 6)), model[0](torch.ones(2, 6))), "a copy is its own"


def test_a_row_is_the_same_in_any_company() -> None:
    """So that what is kept of a row is what would be computed of it."""
    layer, rows = nn.Linear(96, 160), torch.randn(300, 96)
    with swift_linear(nn.Sequential(layer)), torch.no_grad():
        whole = layer(rows)
        for count in (2, 3, 7, 64, 150):
            assert torch.equal(layer(rows[:count]), whole[:count])


def test_a_run_is_the_same_but_for_rounding(
    tiny_recipe: Recipe, in_tmp: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    swiftly = run(tiny_recipe, "swift", data=SPLITS)
    assert asked
    asked.clear()
    predicted = load_run("swift").predict(["3 4 5", "7 8"])
    assert asked
    monkeypatch.setattr("toolkit.linear.is_swifter", lambda: False)
    asked.clear()
    run(tiny_recipe, "plain", data=SPLITS)
    assert load_run("plain").predict(["3 4 5", "7 8"]) == predicted
    assert not asked
    for one, other in zip(lines(Path("swift")), lines(Path("plain")), strict=True):
        assert one.pop("split") == other.pop("split")
        assert one == pytest.approx(other, rel=1e-3)
    assert all("forward" not in vars(one) for one in swiftly.model.modules())


def test_which_processors_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.linear.is_swifter", is_swifter)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for capability, described, expected in (
        ("AVX512", "vendor_id\t: AuthenticAMD", True),
        ("AVX2", "vendor_id\t: AuthenticAMD", False),
        ("AVX512", "vendor_id\t: GenuineIntel", False),
    ):
        is_swifter.cache_clear()
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        monkeypatch.setattr("toolkit.linear._processor", lambda found=described: found)
        assert is_swifter() is expected
    is_swifter.cache_clear()
    assert _processor
