"""The decoder's attention to the sound in another order: transformers' numbers, but for rounding."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toolkit_whisper.attention import SHORT, CrossAttention, look_at_sound, without_keys
from transformers import GenerationMixin, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperAttention

from tests.plugins.whisper.conftest import Nano


def looking(plain: Any) -> Any:
    model = copy.deepcopy(plain)
    look_at_sound(model.get_decoder())
    return model


def counted(model: Any) -> list[int]:
    """How many positions `k_proj` of the decoder makes keys of, call by call."""
    lengths: list[int] = []
    k_proj = model.get_decoder().layers[0].encoder_attn.k_proj
    k_proj.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    return lengths


@pytest.fixture
def plain(english: Nano) -> Any:
    return english[0].eval()


SOUND = torch.randn(3, 100, 32, generator=torch.Generator().manual_seed(0))
TEXTS = torch.randint(0, 250, (3, 9), generator=torch.Generator().manual_seed(0))


def logits(model: Any, texts: torch.Tensor = TEXTS, sound: torch.Tensor = SOUND) -> torch.Tensor:
    encoded = BaseModelOutput(last_hidden_state=sound)  # type: ignore[arg-type]
    return model(encoder_outputs=encoded, decoder_input_ids=texts, use_cache=False).logits  # type: ignore[no-any-return]


def test_logits_are_transformers_own(plain: Any) -> None:
    model = looking(plain)
    keys = counted(model)
    assert isinstance(model.get_decoder().layers[0].encoder_attn, CrossAttention)
    torch.testing.assert_close(logits(model), logits(plain), rtol=1e-4, atol=1e-4)
    assert keys == []


def test_gradients_are_transformers_own(plain: Any) -> None:
    found = []
    for model in (plain, looking(plain)):
        sound = SOUND.clone().requires_grad_()
        logits(model, sound=sound).square().mean().backward()
        attention = model.get_decoder().layers[0].encoder_attn
        weights = (attention.k_proj, attention.v_proj, attention.q_proj, attention.out_proj)
        found.append([sound.grad, *(one.weight.grad for one in weights), attention.v_proj.bias.grad])
    for one, two in zip(*found, strict=True):
        assert two.abs().max() > 0
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("short", [2, 5, SHORT])
def test_generated_texts_are_transformers_own(
    beams: int, short: int, plain: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that grows longer than is short goes on with keys and values, made once."""
    monkeypatch.setattr("toolkit_whisper.attention.SHORT", short)
    model = looking(plain)
    keys = counted(model)
    with without_keys():
        texts = [
            GenerationMixin.generate(
                one, encoder_outputs=BaseModelOutput(last_hidden_state=SOUND), decoder_input_ids=TEXTS[:, :2],  # type: ignore[arg-type]
                attention_mask=torch.ones(3, 100), max_length=20, min_length=20, num_beams=beams, do_sample=False,
            )
            for one in (plain, model)
        ]  # fmt: skip
    assert texts[0].shape == (3, 20)
    assert torch.equal(*texts)
    assert keys == ([] if short == SHORT else [100])


@pytest.mark.parametrize(
    "asked",
    [
        {"return_dict_in_generate": True},
        {"temperature": (0.0, 0.4), "logprob_threshold": -1.0},
        {"return_dict_in_generate": True, "output_attentions": True, "num_beams": 2},
    ],
)
def test_a_models_own_generate_goes_transformers_way(asked: dict[str, Any], plain: Any) -> None:
    """It looks at the keys and values that it expects to be there."""
    inputs = torch.randn(2, plain.config.num_mel_bins, 2 * plain.config.max_source_positions)
    found = []
    for model in (plain, looking(plain)):
        torch.manual_seed(0)
        found.append(model.generate(input_features=inputs, max_new_tokens=5, **asked))
    one, other = (getattr(made, "sequences", made) for made in found)
    assert torch.equal(one, other)


def test_long_texts_are_left_to_whisper(plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_whisper.attention.SHORT", 8)
    model = looking(plain)
    keys = counted(model)
    assert torch.equal(logits(model), logits(plain))
    assert keys == [100]


def _adapted(model: Any) -> Any:
    return get_peft_model(
        model, LoraConfig(r=2, target_modules=["encoder_attn.k_proj"], init_lora_weights=False)
    )


def _with_dropout(model: Any) -> Any:
    for layer in model.get_decoder().layers:
        layer.encoder_attn.dropout = 0.1
    return model.train()


def _eager(model: Any) -> Any:
    model.set_attn_implementation("eager")
    return model


@pytest.mark.parametrize("change", [_adapted, _with_dropout, _eager])
def test_what_is_left_to_whisper(change: Any, plain: Any) -> None:
    found = []
    for model in (copy.deepcopy(plain), looking(plain)):
        torch.manual_seed(0)
        changed = change(model)
        torch.manual_seed(0)
        found.append(logits(changed))
    assert torch.equal(*found)


def test_half_precision_is_left_to_whisper(plain: Any) -> None:
    model, sound = looking(plain).bfloat16(), SOUND.bfloat16()
    assert torch.equal(logits(model, sound=sound), logits(plain.bfloat16(), sound=sound))


def test_what_is_saved_is_as_it_was(plain: Any, tmp_path: Any) -> None:
    looking(plain).save_pretrained(tmp_path)
    again = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert type(again.get_decoder().layers[0].encoder_attn) is WhisperAttention
    assert torch.equal(logits(again), logits(plain))
