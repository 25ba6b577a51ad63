"""Captions read in groups by length are the captions read at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_clip import lengths
from toolkit_clip.features import Features, features
from toolkit_clip.loss import infonce
from toolkit_clip.settings import ClipSettings
from toolkit_clip.step import Step, parts_of
from torch import Tensor

from tests.plugins.clip import large
from tests.plugins.clip.conftest import nano_siglip
from toolkit import Stage
from toolkit.stages import reused

LENGTHS = [6, 2, 3, 6, 2, 4, 5, 3]


def batch() -> dict[str, Any]:
    """Captions of uneven length, their end token at the end and padding after it, as CLIP's tokenizer pads."""
    made = large.batch()
    for row, length in enumerate(LENGTHS):
        made["input_ids"][row, length - 1 :] = 31
        made["attention_mask"][row, length:] = 0
    return made


def outcome(model: Any, size: int | None = None) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss = Step(ClipSettings(micro_batch_size=size))(
        model, batch(), lambda part: (part / large.ROWS).backward()
    )
    return float(loss.total), large.gradients(model)


def trained_whole(dropout: float = 0.0) -> Any:
    return large.model(dropout).requires_grad_()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """(captions, tokens) of each call of the text tower's layers, two captions being a group."""
    monkeypatch.setattr(lengths, "AT_ONCE", 2)
    return []


def watched(model: Any, read: list[tuple[int, ...]]) -> Any:
    tower = model.get_base_model().text_model
    tower.embeddings.register_forward_hook(lambda module, given, made: read.append(tuple(made.shape[:2])))
    return model


def test_loss_and_gradients_are_those_of_one_call(
    read: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the embedding too, which is looked up once."""
    loss, found = outcome(watched(trained_whole(), read))
    assert read == [(2, 2), (2, 3), (2, 5), (2, 6)]
    monkeypatch.setattr(lengths, "AT_ONCE", 1000)
    whole, expected = outcome(watched(trained_whole(), read))
    assert read[4:] == [(8, 6)]
    assert loss == pytest.approx(whole, rel=1e-12)
    assert found.keys() == expected.keys()
    assert any("token_embedding" in name for name in found)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-13)


def test_dropout_is_the_same_in_both_passes(read: list[tuple[int, ...]]) -> None:
    """Two parts, the first in two passes, against autograd through both of them at once."""
    model = watched(large.model(), read)
    torch.manual_seed(5)
    made = Features.cat([features(model, part) for part in parts_of(batch(), 4)])
    total = infonce(made.images, made.texts, model.get_base_model().logit_scale)
    (total / large.ROWS).backward()
    expected = large.gradients(model)
    torch.manual_seed(5)
    loss, found = outcome(model, 4)
    assert len(read) == 4 + 6
    assert loss == pytest.approx(float(total.detach()), rel=1e-12)
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-13)


def test_texts_of_one_length_are_read_at_once(read: list[tuple[int, ...]]) -> None:
    features(watched(large.model(), read), large.batch())
    assert read == [(8, 6)]


def frozen_texts(read: list[tuple[int, ...]]) -> Any:
    model = watched(large.model(dropout=0.0), read)
    model.get_base_model().text_model.requires_grad_(False)
    return model


def test_a_tower_in_which_nothing_trains_reads_captions_of_one_length(
    read: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single one twice, so that its products are summed as those of several are."""
    model = frozen_texts(read)
    found = features(model, batch())
    assert read == [(2, 2), (2, 3), (2, 4), (2, 5), (2, 6)]
    assert "forward" not in vars(model.get_base_model().text_model)
    monkeypatch.setattr("toolkit_clip.features.by_length", lambda clip: contextlib.nullcontext())
    expected = features(model, batch())
    assert read[5:] == [(8, 6)]
    torch.testing.assert_close(found.texts, expected.texts)
    assert torch.equal(found.images, expected.images)


def test_what_is_kept_of_a_caption_is_read_in_any_batch(read: list[tuple[int, ...]], tmp_path: Path) -> None:
    """However long the others in it are."""
    model, whole = frozen_texts(read), batch()
    expected = features(model, whole).texts
    stage = Stage("text tower", model.get_base_model().text_model, outputs=("pooler_output",))
    generator = torch.Generator().manual_seed(0)
    with reused([stage], tmp_path, 1.0, rows=large.ROWS):
        for _ in range(5):
            for rows in torch.randperm(large.ROWS, generator=generator).split(3):
                some = {
                    key: whole[key][rows] for key in ("pixels", "input_ids", "attention_mask", "image_of")
                }
                found = features(model, {**whole, **some}).texts
                torch.testing.assert_close(found, expected[rows])
    assert len([*tmp_path.rglob("*.safetensors")]) == large.ROWS


def test_a_siglip_reads_all_of_its_texts() -> None:
    model, _ = nano_siglip()
    with lengths.by_length(model):
        assert "forward" not in vars(model.text_model)
