"""Quantized models load, compute and train their adapters; wrong settings are refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from transformers import (
    BitsAndBytesConfig,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from toolkit.adapters import adapt, trainable_parameters
from toolkit.errors import ModelError, RecipeError
from toolkit.models import load_model
from toolkit.quantization import keep_unpacked, quantization_arguments
from toolkit.recipe import ModelSpec

torch.set_num_threads(1)


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_attention_heads=2, num_hidden_layers=2)
    )  # fmt: skip


def whisper() -> Any:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=64, d_model=64, num_mel_bins=8, max_source_positions=10, max_target_positions=10,
            encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=64, decoder_ffn_dim=64,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    )  # fmt: skip


def clip() -> Any:
    tower = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 64, "max_position_embeddings": 10, "bos_token_id": 1, "eos_token_id": 2, **tower}
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config={"image_size": 8, "patch_size": 4, **tower}, projection_dim=8)
    )  # fmt: skip


IDS = torch.arange(3, 11)[None]  # (1, 8)
PIXELS = torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8)
MODELS = {
    "llama": (llama, {"input_ids": IDS, "labels": IDS}, ["q_proj", "k_proj"]),
    "whisper": (
        whisper,
        {"input_features": torch.linspace(-1, 1, 160).reshape(1, 8, 20), "labels": IDS},
        ["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.k_proj"],
    ),
    "clip": (
        clip,
        {"input_ids": IDS.repeat(2, 1), "pixel_values": PIXELS, "return_loss": True},
        ["vision_model.encoder.layers.*.self_attn.q_proj", "vision_model.encoder.layers.*.self_attn.k_proj"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("bits", "layer"), [("4bit", Linear4bit), ("8bit", Linear8bitLt)])
def test_adapters_on_quantized_weights(kind: str, bits: str, layer: type, tmp_path: Path) -> None:
    build, batch, entries = MODELS[kind]
    torch.manual_seed(0)
    full = build()
    full.save_pretrained(tmp_path / "base")
    model = load_model(str(tmp_path / "base"), **{f"load_in_{bits}": True})
    quantized = [name for name, module in model.named_modules() if isinstance(module, layer)]
    assert any(name.endswith("self_attn.v_proj") for name in quantized)
    assert trainable_parameters(model)[1] == sum(one.numel() for one in full.parameters())

    adapted = adapt(model, {"r": 4, "target_modules": entries, "init_lora_weights": False})
    assert trainable_parameters(adapted) == adapted.get_nb_trainable_parameters()
    loss = adapted(**batch).loss
    assert torch.isfinite(loss)
    loss.backward()
    gradients = {name: one.grad for name, one in adapted.named_parameters() if one.requires_grad}
    assert len(gradients) == 2 * len(entries) * {"llama": 2, "whisper": 1, "clip": 1}[kind]
    assert all(one is not None and one.abs().sum() > 0 for one in gradients.values())

    expected = adapted.eval()(**batch).loss
    adapted.save_pretrained(tmp_path / "adapter")
    again = load_model(str(tmp_path / "adapter"), **{f"load_in_{bits}": True})
    assert torch.equal(again.eval()(**batch).loss, expected)


@pytest.mark.parametrize(("bits", "most"), [("4bit", 0.2), ("8bit", 0.02)])
def test_quantized_weights_are_near_the_full_ones(bits: str, most: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    full = llama().eval()
    full.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), **{f"load_in_{bits}": True})
    with torch.no_grad():
        expected, found = full(IDS).logits, loaded(IDS).logits
    error = ((found - expected).norm() / expected.norm()).item()
    assert 0 < error < most


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_evaluating_first_changes_no_gradient(bits: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path)

    def gradients(evaluate_first: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(1)
        settings = {"target_modules": ["q_proj", "up_proj"], "init_lora_weights": False}
        model = adapt(load_model(tmp_path, **{f"load_in_{bits}": True}), settings)
        if evaluate_first:
            with torch.no_grad():
                model.eval()(input_ids=IDS)
        model.train()(input_ids=IDS, labels=IDS).loss.backward()
        return [one.grad for one in model.parameters() if one.requires_grad]

    pairs = list(zip(gradients(False), gradients(True), strict=True))
    assert len(pairs) == 8
    assert all(one is not None and other is not None and torch.equal(one, other) for one, other in pairs)


def test_four_bits_are_those_of_qlora() -> None:
    config = quantization_arguments(ModelSpec("x", quantization="4bit"))["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant
    assert config.bnb_4bit_compute_dtype == (torch.bfloat16 if torch.cuda.is_available() else torch.float32)


def test_any_field_of_the_config() -> None:
    fields = {"load_in_8bit": True, "llm_int8_threshold": 4.5, "llm_int8_skip_modules": ["lm_head"]}
    config = quantization_arguments(ModelSpec("x", quantization=fields))["quantization_config"]
    assert config.to_dict() == BitsAndBytesConfig(**fields).to_dict()
    assert quantization_arguments(ModelSpec("x")) == {}


@pytest.mark.parametrize(
    ("quantization", "messages"),
    [
        ("5bit", ['model.quantization: expected none, 4bit, 8bit or a mapping, found "5bit"']),
        ({}, ["model.quantization: does not say how many bits"]),
        ({"load_in_4bit": False}, ["model.quantization: does not say how many bits"]),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_typ": "nf4", "bnb_4bit_compute_dtype": "bfloat61"},
            ["model.quantization.bnb_4bit_quant_typ: unknown", "model.quantization.bnb_4bit_compute_dtype: expected"],
        ),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf5"}, ["model.quantization.bnb_4bit_quant_type: expected"]),
        ({"load_in_4bit": True, "load_in_8bit": True}, ["model.quantization: load_in_4bit and load_in_8bit are both"]),
        ({"load_in_8bit": "yes"}, ["model.quantization: load_in_8bit must be a boolean"]),
    ],
)  # fmt: skip
def test_faults(quantization: Any, messages: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        quantization_arguments(ModelSpec("x", quantization=quantization))
    found = [fault.message for fault in caught.value.all]
    assert len(found) == len(messages)
    assert all(one.startswith(message) for one, message in zip(found, messages, strict=True))


def test_without_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match="needs bitsandbytes") as caught:
        quantization_arguments(ModelSpec("x", quantization="4bit"))
    assert caught.value.hint == "pip install bitsandbytes"


def test_plain_peft_loads_what_was_trained_on_four_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path / "base")
    settings = {"target_modules": ["q_proj"], "init_lora_weights": False}
    adapted = adapt(load_model(str(tmp_path / "base"), load_in_4bit=True), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert config.base_model_name_or_path == str(tmp_path / "base")
    arguments = quantization_arguments(ModelSpec("x", quantization="4bit"))
    base = LlamaForCausalLM.from_pretrained(config.base_model_name_or_path, dtype=torch.float32, **arguments)
    keep_unpacked(base)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert torch.equal(again.eval()(IDS).logits, adapted.eval()(IDS).logits)
