"""Batches and their loss, against the model's own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toolkit_whisper.collate import Collator
from toolkit_whisper.labels import labels_of, set_prompt
from toolkit_whisper.loss import summed_cross_entropy
from toolkit_whisper.settings import WhisperSettings

from toolkit import Batch, Row

Clip = Callable[..., torch.Tensor]


@pytest.fixture
def rows(english: Any, clip: Clip) -> list[Row]:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    texts = {"one": 0.5, "seventeen": 1.7, "no": 0.1}
    prompt = processor.tokenizer.prefix_tokens
    return [
        {
            "audio": clip(seconds, seed),
            "text": text,
            "labels": labels_of(text, processor.tokenizer, prompt),
            "prompt": prompt,
            "language": "en",
            "row_id": seed,
        }
        for seed, (text, seconds) in enumerate(texts.items())
    ]


@pytest.fixture
def batch(english: Any, rows: list[Row]) -> Batch:
    return Collator(english[1], WhisperSettings())(rows)


def own_loss(model: Any, batch: Batch) -> torch.Tensor:
    """The mean that transformers' Whisper computes, which shifts the labels itself."""
    return model(input_features=batch["input_features"], labels=batch["labels"]).loss  # type: ignore[no-any-return]


def test_what_a_batch_holds(batch: Batch) -> None:
    assert batch["input_features"].shape == (3, 80, 200)
    assert batch["labels"].shape == batch["decoder_input_ids"].shape == (3, 11)
    assert batch["labels"].dtype == torch.int64
    assert (batch["labels"] == -100).sum(dim=1).tolist() == [6, 0, 7]
    assert batch["num_targets"] == int((batch["labels"] != -100).sum()) == 5 + 11 + 4
    assert batch["row_id"].tolist() == [0, 1, 2]
    assert batch["references"] == ["one", "seventeen", "no"]
    assert batch["languages"] == ["en"] * 3
    assert batch["prompt"].shape == (3, 2)
    assert batch["work"] == {"audio seconds": pytest.approx(2.3)}


def test_the_decoder_reads_the_start_once_and_then_each_label(english: Any, batch: Batch) -> None:
    start = english[0].config.decoder_start_token_id
    assert (batch["decoder_input_ids"] == start).sum(dim=1).tolist() == [1, 1, 1]
    assert batch["decoder_input_ids"][1, 1:].tolist() == batch["labels"][1, :-1].tolist()


def test_the_loss_is_the_sum_of_the_models_own_mean(english: Any, batch: Batch) -> None:
    loss = summed_cross_entropy(english[0], batch)
    assert loss.count == batch["num_targets"]
    assert (loss.total / loss.count).item() == pytest.approx(own_loss(english[0], batch).item(), rel=1e-5)


def test_padding_and_company_change_nothing(english: Any, rows: list[Row], batch: Batch) -> None:
    model, processor = english
    collate = Collator(processor, WhisperSettings())
    alone = [summed_cross_entropy(model, collate([row])) for row in rows]
    together = summed_cross_entropy(model, batch)
    assert sum(loss.total.item() for loss in alone) == pytest.approx(together.total.item(), rel=1e-5)
    assert sum(int(loss.count) for loss in alone) == together.count
    assert torch.equal(collate([rows[0]])["input_features"][0], batch["input_features"][0])


def test_in_training_there_are_logits_at_labels_alone(english: Any, batch: Batch) -> None:
    model = english[0]
    expected = summed_cross_entropy(model, batch)
    assert expected.outputs.logits.shape[:2] == (3, 11)
    made: list[torch.Size] = []
    model.proj_out.register_forward_hook(lambda module, inputs, output: made.append(output.shape))
    loss = summed_cross_entropy(model.train(), batch)
    assert made == [(20, model.config.vocab_size)]
    assert loss.outputs is None
    assert loss.count == expected.count
    assert loss.total.item() == pytest.approx(expected.total.item(), rel=1e-6)
    assert model(input_features=batch["input_features"], labels=batch["labels"]).logits.shape[:2] == (3, 11)


def test_labels_may_be_left_out_anywhere(english: Any, batch: Batch) -> None:
    """As a plugin's collator or loss may do with what was asked; nothing at all may be left."""
    model = english[0]
    for left_out in ((slice(None), slice(0, 2)), (1, 4), (0, -1)):
        batch["labels"][left_out] = -100
        expected = summed_cross_entropy(model.eval(), batch).total.item()
        assert summed_cross_entropy(model.train(), batch).total.item() == pytest.approx(expected, rel=1e-6)
    batch["labels"][:] = -100
    assert summed_cross_entropy(model, batch).total.item() == 0


def test_the_collator_works_in_another_process(english: Any, rows: list[Row], batch: Batch) -> None:
    collate = pickle.loads(pickle.dumps(Collator(english[1], WhisperSettings())))
    assert torch.equal(collate(rows)["input_features"], batch["input_features"])


def test_gradients_through_peft_and_checkpointing(english: Any, batch: Batch) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(
            copy.deepcopy(english[0]), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
        )
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        summed_cross_entropy(model, batch).total.backward()
        gradients.append(
            {name: weights.grad for name, weights in model.named_parameters() if weights.requires_grad}
        )
    plain, checkpointed = gradients
    assert any(gradient.abs().max() > 0 for gradient in plain.values())
    assert all(torch.allclose(plain[name], checkpointed[name], rtol=1e-4) for name in plain)


def test_a_model_in_half_precision(english: Any, batch: Batch) -> None:
    model = english[0]
    expected = summed_cross_entropy(model, batch).total.item()
    loss = summed_cross_entropy(model.to(torch.bfloat16), batch)
    assert loss.total.dtype == torch.float32
    assert loss.total.item() == pytest.approx(expected, rel=0.05)


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_the_loss_goes_through_a_distributed_wrapper(english: Any, batch: Batch) -> None:
    wrapped = torch.nn.parallel.DistributedDataParallel(english[0].train(), find_unused_parameters=True)
    total = summed_cross_entropy(wrapped, batch).total
    assert total.item() == pytest.approx(summed_cross_entropy(english[0], batch).total.item())
    total.backward()
    assert english[0].model.encoder.conv1.weight.grad is not None
