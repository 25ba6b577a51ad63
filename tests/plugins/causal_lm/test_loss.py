from __future__ import annotations

from typing import Any

import pytest
import torch
from toolkit_causal_lm.collate import Collator
from toolkit_causal_lm.loss import summed_cross_entropy
from toolkit_causal_lm.prepare import Prepare
from toolkit_causal_lm.settings import CausalLMSettings

from tests.plugins.causal_lm.conftest import nano_llama, nano_tokenizer

ROWS = [
    {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello, you"}],
        "row_id": 0,
    },
    {"prompt": "2+2=", "completion": "4", "row_id": 1},
    {"text": "Once upon a time.", "row_id": 2},
]


def batch_of(tokenizer: Any, rows: Any = ROWS, **settings: Any) -> Any:
    made = CausalLMSettings(**settings)
    prepare = Prepare(tokenizer, made)
    return Collator(tokenizer, made)([prepare(row) for row in rows])


@pytest.mark.parametrize("settings", [{}, {"loss_on": "all"}, {"max_length": 20, "loss_on": "all"}])
@pytest.mark.parametrize("padding", ["<pad>", None])
def test_it_is_transformers_loss_times_its_targets(settings: Any, padding: str | None) -> None:
    tokenizer = nano_tokenizer(pad_token=padding)
    model, batch = nano_llama(tokenizer), batch_of(tokenizer, **settings)
    theirs = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]
    )
    ours = summed_cross_entropy(model, batch)
    assert int(ours.count) == batch["num_targets"] == int((batch["labels"][:, 1:] != -100).sum())
    assert float(ours.total) / ours.count == pytest.approx(float(theirs.loss), rel=1e-5)


def test_rows_of_a_batch_do_not_touch_one_another(tokenizer: Any, llama: Any) -> None:
    whole = summed_cross_entropy(llama, batch_of(tokenizer))
    alone = [summed_cross_entropy(llama, batch_of(tokenizer, [row])) for row in ROWS]
    assert float(whole.total) == pytest.approx(sum(float(one.total) for one in alone), rel=1e-5)
    assert whole.count == sum(one.count for one in alone)


def test_half_precision_is_summed_in_single(tokenizer: Any, llama: Any) -> None:
    batch = batch_of(tokenizer)
    exact = summed_cross_entropy(llama, batch).total
    rough = summed_cross_entropy(llama.to(torch.bfloat16), batch).total
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.05)


@pytest.mark.parametrize("padding", ["<pad>", None])
def test_the_end_is_learnt_also_where_it_is_the_padding(padding: str | None) -> None:
    tokenizer = nano_tokenizer(pad_token=padding)
    batch = batch_of(tokenizer)
    end, turn = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    for row, last in zip(batch["labels"].tolist(), (turn, end, end), strict=True):
        counted = [label for label in row if label != -100]
        assert counted[-1] == last
        assert counted.count(last) == 1
    shortest = batch["labels"][1].tolist()
    assert shortest[:4] == [-100] * 4  # of the prompt
    assert shortest[6:] == [-100] * (len(shortest) - 6)
    assert batch["attention_mask"].sum(dim=1).tolist() == [33, 6, 18]
