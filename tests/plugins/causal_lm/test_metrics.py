from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
import toolkit_causal_lm.metrics
import toolkit_causal_lm.packing
import toolkit_causal_lm.rows
import torch
from toolkit_causal_lm.metrics import ExactMatch, Perplexity, TokenAccuracy
from toolkit_causal_lm.scoring import Evaluate
from toolkit_causal_lm.settings import CausalLMSettings

from tests.plugins.causal_lm.test_loss import ROWS, batch_of
from toolkit import Loss, Scored


def scored(nats: float, tokens: int, right: int) -> Scored:
    return Scored(Loss(torch.tensor(nats), tokens), {"right": right})


def test_divided_once_over_all_tokens() -> None:
    """By hand: 1.5 and 6.5 nats of 1 and 3 tokens are 2 a token; a mean of batches would be 1.83."""
    perplexity, accuracy, other = Perplexity(), TokenAccuracy(), Perplexity()
    perplexity.update(scored(1.5, 1, 1))
    other.update(scored(6.5, 3, 1))
    perplexity.merge(other)
    assert perplexity.compute() == {"perplexity": pytest.approx(math.exp(2.0))}
    for one in (scored(1.5, 1, 1), scored(6.5, 3, 1)):
        accuracy.update(one)
    assert accuracy.compute() == {"token_accuracy": 0.5}


def test_before_the_first_batch_and_beyond_all_numbers() -> None:
    for metric in (Perplexity(), TokenAccuracy(), ExactMatch()):
        (value,) = metric.compute().values()
        assert math.isnan(value)
    far = Perplexity()
    far.update(scored(8000.0, 1, 0))
    assert far.compute() == {"perplexity": math.inf}


def test_batches_add_up_to_the_whole(tokenizer: Any, llama: Any) -> None:
    settings = CausalLMSettings(max_new_tokens=2)
    whole, parts = [Perplexity(), TokenAccuracy()], [Perplexity(), TokenAccuracy()]
    for metrics, batches in ((whole, [ROWS]), (parts, [ROWS[:1], ROWS[1:]])):
        evaluate = Evaluate(tokenizer, settings, every_row=False)
        for rows in batches:
            found = evaluate(llama, batch_of(tokenizer, rows))
            assert found.loss.outputs is None
            for metric in metrics:
                metric.update(found)
    for one, two in zip(whole, parts, strict=True):
        assert one.compute() == pytest.approx(two.compute(), rel=1e-5)


def test_token_accuracy_is_of_the_tokens_that_count(tokenizer: Any, llama: Any) -> None:
    batch = batch_of(tokenizer, loss_on="all")
    found = Evaluate(tokenizer, CausalLMSettings(max_new_tokens=1), every_row=False)(llama, batch)
    likeliest = llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.argmax(-1)
    right = [
        int(guess == label)
        for guesses, labels in zip(likeliest.tolist(), batch["labels"].tolist(), strict=True)
        for guess, label in zip(guesses[:-1], labels[1:], strict=True)
        if label != -100
    ]
    assert len(right) == batch["num_targets"]
    assert found.batch["right"] == sum(right)


def test_a_few_rows_are_answered_or_all(tokenizer: Any, llama: Any) -> None:
    settings = CausalLMSettings(max_new_tokens=2)
    for every_row, expected in ((False, [2, 1, 0]), (True, [2, 2, 2])):
        evaluate = Evaluate(tokenizer, settings, every_row)
        found = [evaluate(llama, batch_of(tokenizer, ROWS[:2])) for _ in range(3)]
        assert [len(one.predictions) for one in found] == expected
        assert [len(one.references) for one in found] == expected
    assert found[0].references == ["Hello, you", "4"]


@pytest.mark.parametrize(
    "module", [toolkit_causal_lm.metrics, toolkit_causal_lm.packing, toolkit_causal_lm.rows]
)
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0
