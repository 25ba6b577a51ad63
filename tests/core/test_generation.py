"""How a model generates: as asked, by its own settings where they count, and in no other way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from toolkit import ModelError, Recipe, generation_settings, load_model
from toolkit.generation import check_generation
from toolkit.plugins import Plugins
from toolkit.recipe import ModelSpec

ASKED: dict[str, Any] = {"max_new_tokens": 12, "eos_token_id": 31, "pad_token_id": 0}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=31, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def written(model: Any, **more: Any) -> list[int]:
    prompt = torch.tensor([[3, 4, 5]])
    with generation_settings(model, **ASKED, **more) as config:
        tokens = model.generate(input_ids=prompt, attention_mask=prompt.ne(0), generation_config=config)
    return list(tokens[0].tolist())[3:]


@pytest.mark.parametrize(
    "own", [{"max_new_tokens": 1}, {"num_return_sequences": 5}, {"do_sample": True, "temperature": 90.0},
            {"forced_eos_token_id": 7}, {"bad_words_ids": [[one] for one in range(30)]}, {"top_k": 1}]
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_models_own_way_does_not_count(own: dict[str, Any], wrapped: bool, model: Any) -> None:
    plain = written(model)
    if wrapped:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    there = model.generation_config
    assert written(model) == plain
    assert model.generation_config is there


def test_its_repetition_penalty_does(model: Any) -> None:
    plain = written(model)
    model.generation_config.repetition_penalty = 50.0
    other = written(model)
    assert len(set(other)) == len(other) == 12
    assert len(set(plain)) < 12
    assert other == model.generate(
        input_ids=torch.tensor([[3, 4, 5]]), attention_mask=torch.ones(1, 3, dtype=torch.long), **ASKED
    )[0].tolist()[3:]  # fmt: skip
    assert written(model, repetition_penalty=1.0) == plain


def test_how_it_draws_counts_where_it_draws(model: Any) -> None:
    plain = written(model)
    model.generation_config.top_k = 1
    assert written(model, do_sample=True, temperature=2.0) == plain


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("eos_token_id", "abc"), ("eos_token_id", [[1]]), ("eos_token_id", 10**30), ("repetition_penalty", -1.0),
        ("repetition_penalty", 0), ("repetition_penalty", "x"), ("repetition_penalty", math.nan), ("top_k", -1),
        ("repetition_penalty", 10**30), ("top_p", "x"), ("min_p", 2), ("typical_p", 0), ("suppress_tokens", 3),
        ("begin_suppress_tokens", [[1]]), ("no_repeat_ngram_size", 1.5), ("no_repeat_ngram_size", -1),
        ("length_penalty", "x"), ("early_stopping", "evil"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_as_it_is_loaded_or_given(
    name: str, value: Any, model: Any, tmp_path: Path
) -> None:
    check_generation(model)
    setattr(model.generation_config, name, value)
    plugins = Plugins(Recipe(name="r", plugins=["causal-lm"]))
    with pytest.raises(ModelError, match=rf"{name} in its generation_config\.json is"):
        plugins.given(model, None)
    model.generation_config = LlamaForCausalLM(model.config).generation_config
    model.save_pretrained(tmp_path)
    settings = tmp_path / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), name: value}))
    with pytest.raises(ModelError, match=f"{name}|cannot be loaded"):
        load_model(ModelSpec(str(tmp_path)), AutoModelForCausalLM)


def test_a_model_that_does_not_generate_has_none() -> None:
    check_generation(torch.nn.Linear(2, 2))
