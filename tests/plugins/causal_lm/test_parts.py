"""Logits of many targets some at a time: the same loss, the same gradients, and never all logits at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from peft import TaskType
from toolkit_causal_lm import parts
from toolkit_causal_lm.loss import logits_and_targets, summed_cross_entropy
from toolkit_causal_lm.parts import summed_in_parts
from toolkit_causal_lm.scoring import Evaluate
from toolkit_causal_lm.settings import CausalLMSettings
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from tests.plugins.causal_lm.test_logits import ADAPTERS, CONFIGS, a_batch, gradients, places_at, plainly
from toolkit import adapt

AT_ONCE = 3
FOLLOWED = ("gemma2", "cohere", "granite")
"""Their logits are capped or scaled after the head."""


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "HELD", AT_ONCE * 96)


def made(name: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).float().eval()


def check_same(model: Any, head: Any, in_parts: bool) -> None:
    batch = a_batch()
    theirs = plainly(model, batch)
    expected = gradients(model, theirs)
    summed_cross_entropy(model, batch)  # whether it may go in parts is tried
    with places_at(head) as places:
        ours = summed_cross_entropy(model, batch)
    assert places == ([3] * 6 + [1] if in_parts else [19])
    torch.testing.assert_close(ours.total, theirs, rtol=1e-5, atol=1e-5)
    found = gradients(model, ours.total * 3)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name] / 3, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_the_models_own(name: str) -> None:
    model = made(name)
    check_same(model, model.get_output_embeddings(), in_parts=name not in FOLLOWED)


@pytest.mark.parametrize("name", ADAPTERS)
def test_through_adapters(name: str) -> None:
    model = adapt(made("llama"), {**ADAPTERS[name], "task_type": TaskType.CAUSAL_LM}).eval()
    check_same(model, model.get_base_model().get_output_embeddings(), in_parts=True)


def test_with_activation_checkpoints() -> None:
    model = made("llama")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    check_same(model.train(), model.get_output_embeddings(), in_parts=True)


@pytest.mark.skipif(not hasattr(functional, "linear_cross_entropy"), reason="of torch 2.12 and later")
def test_it_is_torchs_linear_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(32, 96, dtype=torch.float64)
    hidden = torch.randn(20, 32, dtype=torch.float64, generator=generator).requires_grad_()
    targets = torch.randint(96, (20,), generator=generator)
    theirs = functional.linear_cross_entropy(
        hidden, head.weight, targets, linear_bias=head.bias, reduction="sum"
    )
    expected = torch.autograd.grad(theirs, [hidden, *head.parameters()])
    ours = summed_in_parts(head, hidden, targets, 96)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, [hidden, *head.parameters()]), expected)


def test_bfloat16_is_as_near_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, batch = made("llama"), a_batch()
    theirs = plainly(exact, batch).detach()
    model = exact.to(torch.bfloat16)
    ours = summed_cross_entropy(model, batch)
    assert ours.total.dtype == torch.float32
    some = gradients(model, ours.total)
    monkeypatch.setattr(parts, "HELD", 1 << 25)
    whole = summed_cross_entropy(model, batch)
    torch.testing.assert_close(ours.total, whole.total)
    torch.testing.assert_close(ours.total, theirs, rtol=1e-2, atol=0)
    for name, gradient in gradients(model, whole.total).items():
        torch.testing.assert_close(some[name], gradient, rtol=0.05, atol=0.05 * float(gradient.abs().max()))


def test_float16_waits_for_its_scale() -> None:
    model = made("llama").half()
    with places_at(model.get_output_embeddings()) as places:
        summed_cross_entropy(model, a_batch())
    assert places[-1] == 19


def test_outputs_have_their_logits() -> None:
    model = made("llama")
    ours = summed_cross_entropy(model, a_batch())
    with torch.no_grad():
        logits = torch.cat([one for one, _ in logits_and_targets(model, a_batch())])
    assert ours.outputs.logits.shape == (1, 19, 96)
    torch.testing.assert_close(ours.outputs.logits[0].detach(), logits)


def test_evaluations_hold_few_logits() -> None:
    model, batch = made("llama"), {**a_batch(), "asked": [], "references": []}
    with torch.no_grad():
        logits, targets = (torch.cat(one) for one in zip(*logits_and_targets(model, batch), strict=True))
        with places_at(model.get_output_embeddings()) as places:
            scored = Evaluate(None, CausalLMSettings(), every_row=False)(model, batch)
        assert places == [3] * 6 + [1]
        torch.testing.assert_close(scored.loss.total, plainly(model, batch), rtol=1e-5, atol=1e-5)
    assert scored.batch["right"] == int((logits.argmax(dim=-1) == targets).sum())


def test_whether_anything_follows_the_head_is_tried_once_and_changes_nothing() -> None:
    model = made("llama").train()
    head = model.get_output_embeddings()
    before = torch.get_rng_state()
    with places_at(head) as places:
        assert parts.nothing_follows(model, head)
        assert parts.nothing_follows(model, head)
    assert places == [8]
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert "forward" not in vars(head)


@pytest.fixture
def group(tmp_path: Any) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("trains", [False, True])
def test_spread_over_processes(group: None, trains: bool) -> None:
    """What trains in the head is to be used within the forward, where gradients of all processes are gathered."""
    model = made("llama")
    head = model.get_output_embeddings().requires_grad_(trains)
    expected = gradients(model, plainly(model, a_batch()))
    spread = DistributedDataParallel(model, find_unused_parameters=True)
    for _ in range(2):
        with places_at(head) as places:
            loss = summed_cross_entropy(spread, a_batch())
        found = gradients(model, loss.total)
    assert places == ([19] if trains else [3] * 6 + [1])
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)
