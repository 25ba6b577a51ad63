"""Logits are computed only where there is something to learn, and all else is as if they were computed everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType
from toolkit_causal_lm.loss import logits_and_targets, summed_cross_entropy
from torch.nn.functional import cross_entropy

from toolkit import adapt

SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FFN = {"intermediate_size": 48, "num_key_value_heads": 2}
GEMMA = {**FFN, "head_dim": 8, "final_logit_softcapping": 0.05}
CONFIGS = {
    "llama": transformers.LlamaConfig(**SIZES, **FFN),
    "tied llama": transformers.LlamaConfig(**SIZES, **FFN, tie_word_embeddings=True),
    "gemma2": transformers.Gemma2Config(**SIZES, **GEMMA),
    "qwen2": transformers.Qwen2Config(**SIZES, **FFN),
    "gpt2": transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "mistral": transformers.MistralConfig(**SIZES, **FFN),
    "phi": transformers.PhiConfig(**SIZES, intermediate_size=48),
    "cohere": transformers.CohereConfig(**SIZES, **FFN, logit_scale=3.0, pad_token_id=0),
    "granite": transformers.GraniteConfig(**SIZES, **FFN, logits_scaling=0.2),
    "bloom": transformers.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4),
    "mamba": transformers.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=4),
}
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "r": 4, "target_modules": ["q_proj", "lm_head"], "init_lora_weights": False},
    "head saved": {"kind": "lora", "r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "ia3": {"kind": "ia3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "prompt": {"kind": "prompt", "num_virtual_tokens": 3},
    "prefix": {"kind": "prefix", "num_virtual_tokens": 3},
}


def a_batch() -> dict[str, Any]:
    ids = torch.randint(3, 96, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 8:] = 0
    labels = torch.where(mask == 1, ids, -100)
    labels[:, :4], labels[1, 6] = -100, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "num_targets": 4 + 7 + 8}


def plainly(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """The sum by the model's own loss."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    return model(**inputs, use_cache=False).loss * batch["num_targets"]  # type: ignore[no-any-return]


def gradients(model: Any, total: torch.Tensor) -> dict[str, torch.Tensor]:
    total.backward()
    found = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
    model.zero_grad()
    return found


@contextmanager
def places_at(head: Any) -> Iterator[list[int]]:
    """Of how many places the head makes logits."""
    seen: list[int] = []

    def look(module: Any, given: Any, made: torch.Tensor) -> None:
        if made.shape[-1] == SIZES["vocab_size"]:
            seen.append(made[..., 0].numel())

    hook = head.register_forward_hook(look)
    yield seen
    hook.remove()


def check_same(model: Any, head: Any) -> None:
    batch = a_batch()
    theirs = plainly(model, batch)
    expected = gradients(model, theirs)
    with places_at(head) as places:
        ours = summed_cross_entropy(model, batch)
    assert places == [batch["num_targets"]]
    torch.testing.assert_close(ours.total, theirs, rtol=1e-5, atol=1e-5)
    found = gradients(model, ours.total)
    assert found.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradients_are_the_models_own(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]).float().eval()
    check_same(model, model.get_output_embeddings())


@pytest.mark.parametrize("name", ADAPTERS)
def test_through_adapters(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"])
    model = adapt(model, {**ADAPTERS[name], "task_type": TaskType.CAUSAL_LM}).eval()
    check_same(model, model.get_base_model().get_output_embeddings())


def test_an_adapter_added_by_transformers() -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"])
    model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False))
    check_same(model.eval(), model.get_output_embeddings())


def test_with_activation_checkpoints() -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    check_same(model.train(), model.get_output_embeddings())


@pytest.mark.parametrize("at_once", [1 << 25, 3 * 96])
def test_experts_are_kept_busy_as_transformers_has_it(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_causal_lm.parts.HELD", at_once)
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        **SIZES, **FFN, num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.5
    )
    model, batch = transformers.AutoModelForCausalLM.from_config(config).float().eval(), a_batch()
    theirs = plainly(model, batch)
    expected = gradients(model, theirs)
    ours = summed_cross_entropy(model, batch)
    torch.testing.assert_close(ours.total, theirs, rtol=1e-5, atol=1e-4)
    assert 0 < ours.report["router_loss"] < 10
    for name, gradient in gradients(model, ours.total).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        measured = summed_cross_entropy(model, batch)
    assert measured.total + 0.5 * batch["num_targets"] < theirs


def test_predictions_are_of_all_places() -> None:
    """What is asked for without gradients goes to `Trainer.predict` and `compute_metrics`."""
    torch.manual_seed(0)
    model, batch = transformers.AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval(), a_batch()
    training = summed_cross_entropy(model, batch)
    with torch.no_grad():
        measured = summed_cross_entropy(model, batch)
        [(logits, targets)] = logits_and_targets(model, batch)
    assert training.outputs.logits.shape == (1, 19, 96)
    assert measured.outputs.logits.shape == (3, 12, 96)
    torch.testing.assert_close(measured.total, training.total.detach())
    torch.testing.assert_close(cross_entropy(logits, targets, reduction="sum"), measured.total)


class WithoutTheChoice(transformers.LlamaForCausalLM):
    """An older one: its forward says nothing of which logits to keep, and makes them of a flattened batch."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, use_cache: bool = False) -> Any:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.lm_head(hidden.reshape(-1, 32)).reshape(*input_ids.shape, -1)
        return transformers.modeling_outputs.CausalLMOutput(logits=logits)


def test_a_model_that_is_not_understood_is_asked_plainly() -> None:
    torch.manual_seed(0)
    model, batch = WithoutTheChoice(CONFIGS["llama"]).eval(), a_batch()
    usual = transformers.LlamaForCausalLM(CONFIGS["llama"]).eval()
    usual.load_state_dict(model.state_dict())
    ours = summed_cross_entropy(model, batch)
    assert ours.outputs.logits.shape == (3, 12, 96)
    torch.testing.assert_close(ours.total, plainly(usual, batch))
