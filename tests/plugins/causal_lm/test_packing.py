"""Packing changes where rows lie, and nothing else."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from toolkit_causal_lm.attention import segments
from toolkit_causal_lm.collate import Collator
from toolkit_causal_lm.loss import summed_cross_entropy
from toolkit_causal_lm.packing import check_keeps_apart, evened, keeps_apart, packed
from toolkit_causal_lm.prepare import Prepare
from toolkit_causal_lm.settings import CausalLMSettings

from tests.plugins.causal_lm.conftest import nano_llama, nano_tokenizer
from toolkit import ModelError

WORDS = ["one", "three", "a", "many more words", "ten", "in a row that is longer than all others, nearly"]


def rows(tokenizer: Any, settings: CausalLMSettings) -> list[dict[str, Any]]:
    prepare = Prepare(tokenizer, settings)
    texts = [{"prompt": f"{number}{word}", "completion": word * 2} for number, word in enumerate(WORDS)]
    return [prepare({**text, "row_id": place}) for place, text in enumerate(texts)]


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def widths(lengths: list[int], sequences: list[list[int]]) -> list[int]:
    return [sum(lengths[place] for place in one) for one in sequences]


def best_fit(lengths: list[int], room: int) -> list[list[int]]:
    """The lengths in each sequence, by the book: sequences kept in the order of what is left in them."""
    sequences: list[tuple[int, list[int]]] = []
    for length in sorted(lengths, reverse=True):
        sequences.sort(key=lambda one: one[0])
        fitting = [one for one in sequences if one[0] >= length]
        left, rows = fitting[0] if fitting else (room, [])
        if fitting:
            sequences.remove(fitting[0])
        sequences.append((left - length, [*rows, length]))
    return sorted(rows for _, rows in sequences)


def first_fit(lengths: list[int], room: int) -> int:
    used: list[int] = []
    for length in lengths:
        place = next((place for place, one in enumerate(used) if one + length <= room), None)
        if place is None:
            used.append(length)
        else:
            used[place] += length
    return len(used)


@given(LENGTHS)
def test_it_is_best_fit_decreasing(lengths: list[int]) -> None:
    found = packed(lengths, 30)
    assert sorted(widths(lengths, found)) == sorted(map(sum, best_fit(lengths, 30)))


@given(LENGTHS)
@pytest.mark.parametrize("pack", [packed, evened])
def test_every_row_is_somewhere_once_and_none_is_too_long(pack: Any, lengths: list[int]) -> None:
    sequences = pack(lengths, 30)
    assert sorted(place for one in sequences for place in one) == [*range(len(lengths))]
    assert max(widths(lengths, sequences)) <= 30
    assert len(sequences) <= first_fit(sorted(lengths, reverse=True), 30) + 1


@given(LENGTHS)
def test_no_two_sequences_would_go_into_one(lengths: list[int]) -> None:
    used = widths(lengths, packed(lengths, 30))
    assert all(one + other > 30 for one, other in combinations(used, 2))


@given(LENGTHS)
def test_evened_sequences_are_as_many_and_no_wider(lengths: list[int]) -> None:
    even, plain = evened(lengths, 30), packed(lengths, 30)
    assert len(even) <= len(plain)
    assert max(widths(lengths, even)) <= max(widths(lengths, plain))


def test_what_is_left_is_spread() -> None:
    """In sequences of 2048, one would be full and one nearly empty: 1848 of 4096 tokens padding."""
    lengths = [200, 300, 250, 700, 150, 648]
    assert widths(lengths, packed(lengths, 2048)) == [2048, 200]
    assert widths(lengths, evened(lengths, 2048)) == [1150, 1098]


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
        "efghijk</s>",
        "abcd</s>lm</s>",
    ]
    assert batch["position_ids"].tolist() == [[*range(8)], [*range(5), *range(3)]]
    assert [(one != -100).tolist().count(True) for one in batch["labels"]] == [7, 4 + 2]
    assert batch["labels"][1, 5] == -100  # the first token of a row is not predicted from the row before it
    assert batch["num_targets"] == 13
    assert batch["work"] == {"tokens": 16.0}


@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("room", [None, 70, 110])
@pytest.mark.parametrize("too_long", ["truncate", "split"])
def test_loss_and_gradients_are_those_of_padded_rows(
    tokenizer: Any, room: int | None, too_long: Any, checkpoints: bool
) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    found = []
    for packing in (False, True):
        settings = CausalLMSettings(packing=packing, max_length=room, too_long=too_long)
        torch.manual_seed(1)
        model = get_peft_model(nano_llama(tokenizer).double(), config)
        if checkpoints:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()
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
    packed_ = {name: batch[name] for name in ("input_ids", "position_ids")} | {"use_cache": False}
    right = llama(**packed_).logits
    wrong = llama(**packed_, attention_mask=torch.ones_like(batch["input_ids"])).logits
    assert (wrong - right).abs().mean() > 0.01


@pytest.mark.parametrize("config", [{}, {"num_key_value_heads": 4}, {"_attn_implementation": "eager"}])
def test_attention_row_by_row_is_that_of_the_whole(tokenizer: Any, config: Any) -> None:
    settings = CausalLMSettings(packing=True, max_length=110)
    tokenizer.model_max_length = 160
    model = nano_llama(tokenizer, **config).double()
    batch = Collator(tokenizer, settings)(rows(tokenizer, settings))
    assert len(batch["input_ids"]) > 1
    packed_ = {name: batch[name] for name in ("input_ids", "position_ids")} | {"use_cache": False}
    with torch.no_grad():
        whole = model(**packed_).logits
        ours = model(**packed_, **segments(model, batch)).logits
    torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-9)


def test_the_work_grows_with_the_rows_and_not_with_their_square(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def counted(query: Any, key: Any, *args: Any, **kwargs: Any) -> Any:
        pairs.append(query.shape[2] * key.shape[2])
        return plain(query, key, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    settings = CausalLMSettings(packing=True, max_length=2000)
    tokenizer.model_max_length = 2000
    model = nano_llama(tokenizer, max_position_embeddings=2000)
    made = rows(tokenizer, settings)
    for copies in (1, 8):
        pairs.clear()
        batch = Collator(tokenizer, settings)(made * copies)
        assert len(batch["input_ids"]) == 1
        summed_cross_entropy(model, batch)
        assert sum(pairs) == 2 * copies * sum(len(row["pieces"][0].ids) ** 2 for row in made)


def test_a_sliding_window_slides_within_each_row(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
    model, wider = (
        transformers.MistralForCausalLM(transformers.MistralConfig(**config, sliding_window=window)).double()
        for window in (4, None)
    )
    wider.load_state_dict(model.state_dict())
    ids = torch.randint(64, (2, 16))
    positions = torch.tensor([[*range(9), *range(7)], [*range(16)]])
    lengths = segments(model, {"position_ids": positions})
    assert lengths == {"row_lengths": [[9, 7], [16]]}
    whole, ours = (
        model(input_ids=ids, position_ids=positions, use_cache=False, **more).logits for more in ({}, lengths)
    )
    torch.testing.assert_close(ours, whole, rtol=1e-9, atol=1e-9)
    other = wider(input_ids=ids, position_ids=positions, use_cache=False, **lengths).logits
    assert (other - ours).abs().max() > 1e-6


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
    assert keeps_apart(model)


@pytest.mark.parametrize("name", MIXES)
def test_models_that_do_not_are_refused(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(MIXES[name])
    with pytest.raises(ModelError, match=r"causal-lm\.packing: \w+ (does not keep rows|cannot be packed)"):
        check_keeps_apart(model)
    assert not keeps_apart(model)
