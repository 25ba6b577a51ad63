"""A batch computed in parts is the batch computed at once: loss, gradients, memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_clip.features import Features, features
from toolkit_clip.loss import infonce
from toolkit_clip.settings import ClipSettings
from toolkit_clip.step import Step, parts_of
from torch import Tensor

from tests.plugins.clip import large

EXACT = {"rtol": 1e-10, "atol": 1e-13}


def step(model: Any, size: int | None, batch: Any = None) -> tuple[float, dict[str, Tensor]]:
    """The summed loss of one step and the gradients of its mean."""
    model.zero_grad()
    given = batch or large.batch()
    loss = Step(ClipSettings(micro_batch_size=size))(
        model, given, lambda part: (part / large.ROWS).backward()
    )
    assert loss.count == given["num_targets"]
    return float(loss.total), large.gradients(model)


def at_once(model: Any, size: int) -> tuple[float, dict[str, Tensor]]:
    """The same by plain autograd: all graphs held, the features of parts of `size` put together."""
    model.zero_grad()
    made = [features(model, part) for part in parts_of(large.batch(), size)]
    both = Features(torch.cat([one.images for one in made]), torch.cat([one.texts for one in made]))
    total = infonce(both.images, both.texts, model.get_base_model().logit_scale)
    (total / large.ROWS).backward()
    return float(total.detach()), large.gradients(model)


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert any("lora_A" in name for name in one)
    assert any("lora_B" in name and "vision" in name for name in one)
    assert any(name.endswith("logit_scale") for name in one)
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], **EXACT)
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 100])
def test_any_cut_gives_the_loss_and_gradients_of_one_batch(size: int) -> None:
    """With dropout in the adapters, its masks going by rows: 1 x 8 = 8 x 1 = 4 x 2 = ..., also where a rest is left."""
    whole, expected = step(large.with_row_dropout(large.model()), None)
    loss, found = step(large.with_row_dropout(large.model()), size)
    assert loss == pytest.approx(whole, rel=1e-12)
    assert_same(found, expected)


@pytest.mark.parametrize("size", [2, 3, 8])
def test_dropout_is_the_same_in_both_passes(size: int) -> None:
    """torch's own dropout, against autograd through all parts at once from the same random state."""
    model = large.model()
    torch.manual_seed(5)
    whole, expected = at_once(model, size)
    after = torch.get_rng_state()
    torch.manual_seed(5)
    loss, found = step(model, size)
    assert loss == pytest.approx(whole, rel=1e-12)
    assert_same(found, expected)
    assert torch.equal(torch.get_rng_state(), after), "what comes next would differ"
    torch.manual_seed(6)
    assert step(model, size)[0] != pytest.approx(whole, rel=1e-6), "dropout is on"


def test_activation_checkpointing_changes_nothing() -> None:
    plain, saving = large.model(), large.model()
    saving.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(5)
    whole, expected = step(plain, 2)
    torch.manual_seed(5)
    loss, found = step(saving, 2)
    assert loss == pytest.approx(whole, rel=1e-12)
    assert_same(found, expected)


def test_of_several_captions_the_first_is_trained() -> None:
    batch = large.batch()
    more = {**batch, "image_of": torch.arange(large.ROWS).repeat_interleave(2)}
    for key in ("input_ids", "attention_mask"):
        more[key] = torch.stack([batch[key], batch[key].flip(0)], dim=1).flatten(0, 1)
    assert step(large.model(0.0), 3, more)[0] == pytest.approx(step(large.model(0.0), None)[0], rel=1e-12)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("frozen", ["vision_model", "text_model"])
def test_a_tower_in_which_nothing_trains_is_computed_once(frozen: str, size: int) -> None:
    """Also where it drops at random: the other tower draws what it would have drawn. Its forward is put back."""
    model = large.model()
    tower = getattr(model.get_base_model(), frozen)
    tower.requires_grad_(False)
    torch.manual_seed(5)
    whole, expected = at_once(model, size)
    read: list[int] = []
    torch.manual_seed(5)
    with counted(tower, read):
        loss, found = step(model, size)
    assert sum(read) == large.ROWS
    assert loss == pytest.approx(whole, rel=1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_locked_text_tower_with_captions_of_any_length(size: int) -> None:
    """Captions of one length are read together, so a part takes several calls of the tower."""
    model = large.model(0.0)
    model.get_base_model().text_model.requires_grad_(False)
    batch = large.batch()
    end = model.config.text_config.eos_token_id
    for row, length in enumerate([4, 5, 6, 4, 7, 5, 6, 3]):
        batch["input_ids"][row, length - 1 :] = end
        batch["attention_mask"][row] = (torch.arange(batch["input_ids"].shape[1]) < length).long()
    whole, expected = step(model, None, batch)
    loss, found = step(model, size, batch)
    assert loss == pytest.approx(whole, rel=1e-12)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], **EXACT)


@contextmanager
def counted(tower: Any, read: list[int]) -> Iterator[None]:
    """Meanwhile the tower's forward is another one, which notes how many rows it computes."""
    compute = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        made = compute(*args, **kwargs)
        read.append(len(made.pooler_output))
        return made

    tower.forward = forward
    yield
    assert tower.forward is forward
    del tower.forward


def test_the_last_part_is_computed_once() -> None:
    model, read = large.model(), []
    with counted(model.get_base_model().vision_model, read):
        step(model, 3)
    assert read == [3, 3, 2, 3, 3]


class Held:
    """Counts the bytes that autograd keeps for the backward pass, now and at most."""

    now = most = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        held = self

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor
                held.now += tensor.nbytes
                held.most = max(held.most, held.now)

            def __del__(self) -> None:
                held.now -= self.tensor.nbytes

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            yield


def test_the_activations_held_are_those_of_a_part() -> None:
    most = {}
    for size in (1, 2, None):
        held = Held()
        with held.counting():
            step(large.model(), size)
        most[size] = held.most
    weights = sum(one.nbytes for one in large.model().parameters())
    assert most[1] < most[None] / 4 + weights
    assert most[2] - most[1] < (most[None] - most[2]) / 2


def test_two_ranks_are_one(tmp_path: Path) -> None:
    """Two processes with four rows each, in parts and at once, dropout on: the gradients of one with all eight."""
    whole, expected = step(large.with_row_dropout(large.model()), None)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, large.__file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(number), "2"], env=env) for number in range(2)]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    found = [torch.load(tmp_path / f"rank{number}.pt") for number in range(2)]
    for size in ("2", "None"):
        shares = [one[size].pop("loss") for one in found]
        assert float(sum(shares)) == pytest.approx(whole, rel=1e-12)
        for one in found:
            assert_same(one[size], expected)
