"""Packing changes where rows lie, and nothing else."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from toolkit_causal_lm.collate import Collator
from toolkit_causal_lm.loss import summed_cross_entropy
from toolkit_causal_lm.packing import check_keeps_apart, packed
from toolkit_causal_lm.prepare import Prepare
from toolkit_causal_lm.settings import CausalLMSettings

from tests.plugins.causal_lm.conftest import nano_llama, nano_tokenizer
from toolkit import ModelError

WORDS = ["one", "three", "a", "many more words", "ten", "in a row that is longer than all others, nearly"]


def rows(tokenizer: Any, settings: CausalLMSettings) -> list[dict[str, Any]]:
    prepare = Prepare(tokenizer, settings)
    texts = [{"prompt": f"{number}{word}", "completion": word * 2} for number, word in enumerate(WORDS)]
    return [prepare({**text, "row_id": place}) for place, text in enumerate(texts)]


@pytest.mark.parametrize("seed", range(20))
def test_every_row_is_somewhere_once_and_none_is_too_long(seed: int) -> None:
    generator = random.Random(seed)
    lengths = [generator.randint(1, 30) for _ in range(generator.randint(1, 40))]
    sequences = packed(lengths, 30)
    assert sorted(place for one in sequences for place in one) == [*range(len(lengths))]
    used = [sum(lengths[place] for place in one) for one in sequences]
    assert max(used) <= 30
    assert all(one + other > 30 for one, other in pairwise(used))


def test_the_batch() -> None:
    tokenizer = nano_tokenizer()
    settings = CausalLMSettings(packing=True, max_length=12, loss_on="all")
    prepare = Prepare(tokenizer, settings)
    texts = ["abcd", "efghijk", "lm"]  # with their ends 5, 8 and 3 tokens
    batch = Collator(tokenizer, settings)([prepare({"text": one, "row_id": 7}) for one in texts])
    assert set(batch) == {
        "input_ids",
        "labels",
        "position_ids",
        "num_targets",
        "row_id",
        "asked",
        "references",
        "work",
    }
    assert tokenizer.batch_decode(batch["input_ids"]) == [
        "efghijk</s>lm</s>",
        "abcd</s><pad><pad><pad><pad><pad><pad>",
    ]
    assert batch["position_ids"].tolist() == [[*range(8), *range(3)], [*range(5), *range(6)]]
    assert [(one != -100).tolist().count(True) for one in batch["labels"]] == [7 + 2, 4]
    assert batch["labels"][0, 8] == -100  # the first token of a row is not foretold by the row before it
    assert batch["num_targets"] == 13
    assert batch["work"] == {"tokens": 16.0}


@pytest.mark.parametrize("room", [None, 70, 110])
@pytest.mark.parametrize("too_long", ["truncate", "split"])
def test_loss_and_gradients_are_those_of_padded_rows(tokenizer: Any, room: int | None, too_long: Any) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    found = []
    for packing in (False, True):
        settings = CausalLMSettings(packing=packing, max_length=room, too_long=too_long)
        torch.manual_seed(1)
        model = get_peft_model(nano_llama(tokenizer).double(), config)
        tokenizer.model_max_length = 160
        batch = Collator(tokenizer, settings)(rows(tokenizer, settings))
        loss = summed_cross_entropy(model, batch)
        loss.total.backward()
        gradients = {
            name: weights.grad for name, weights in model.named_parameters() if weights.requires_grad
        }
        found.append((loss, gradients, batch))
    (padded, padded_gradients, _), (packed_, packed_gradients, batch) = found
    assert batch["input_ids"].shape[0] < len(WORDS)
    assert packed_.count == padded.count
    torch.testing.assert_close(packed_.total, padded.total, rtol=1e-12, atol=0)
    assert len(padded_gradients) == 28
    for name, gradient in padded_gradients.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-9, atol=1e-12)


def test_with_a_mask_it_would_be_wrong(tokenizer: Any, llama: Any) -> None:
    """Why the batch has none."""
    settings = CausalLMSettings(packing=True)
    tokenizer.model_max_length = 160
    batch = Collator(tokenizer, settings)(rows(tokenizer, settings))
    masked = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
    right, wrong = (float(summed_cross_entropy(llama, one).total) for one in (batch, masked))
    assert abs(wrong - right) / batch["num_targets"] > 0.01


SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
KEEPS = {
    "llama": transformers.LlamaConfig(**SIZES, intermediate_size=64),
    "gpt2": transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    "qwen3": transformers.Qwen3Config(**SIZES, intermediate_size=64, head_dim=8, num_key_value_heads=2),
    "gpt-neox": transformers.GPTNeoXConfig(**SIZES, intermediate_size=64),
}
MIXES = {
    "mamba": transformers.MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=4),
    "bloom": transformers.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "rwkv": transformers.RwkvConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2),
}


@pytest.mark.parametrize("name", KEEPS)
def test_models_that_keep_rows_apart(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(KEEPS[name])
    check_keeps_apart(model.train())
    assert model.training
    check_keeps_apart(model.to(torch.bfloat16))


@pytest.mark.parametrize("name", MIXES)
def test_models_that_do_not_are_refused(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MIXES[name])
    with pytest.raises(ModelError, match=r"causal-lm\.packing: \w+ (does not keep rows|cannot be packed)"):
        check_keeps_apart(model)
