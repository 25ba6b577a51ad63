"""What is changed at random in training, and that it comes from the generator alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from toolkit_clip.augment import Augment, _Change, crop_box, recoloured
from toolkit_clip.prepare import Prepare
from toolkit_clip.settings import ClipSettings

from toolkit import Recipe


@pytest.fixture
def row(nano: Any, picture: Callable[..., Image.Image], write: Any) -> dict[str, Any]:
    path = str(write("a.png", picture(80, 60)))
    recipe = Recipe(name="test", plugins=["clip"], cache={"enabled": False})
    return Prepare(recipe, nano[1])({"image": path, "caption": ["one", "two", "three"], "row_id": 0})


def drawn(row: dict[str, Any], seed: int, **settings: Any) -> dict[str, Any]:
    return Augment(ClipSettings(**settings))(row, torch.Generator().manual_seed(seed))


def test_one_of_the_captions_is_drawn(row: Any) -> None:
    found = [drawn(row, seed) for seed in range(60)]
    assert {one["caption"][0] for one in found} == {"one", "two", "three"}
    for one in found:
        assert one["tokens"] == [row["tokens"][row["caption"].index(one["caption"][0])]]
        assert torch.equal(one["pixels"], row["pixels"])


def test_the_same_seed_gives_the_same_row(row: Any) -> None:
    settings = {"min_crop": 0.3, "flip": 0.5, "colour": 0.4}
    one, again, other = (drawn(row, seed, **settings) for seed in (1, 1, 2))
    assert torch.equal(one["pixels"], again["pixels"])
    assert one["caption"] == again["caption"]
    assert not torch.equal(one["pixels"], other["pixels"])
    assert one["pixels"].shape == row["pixels"].shape
    assert one["pixels"].dtype == torch.uint8


def test_mirrored_as_often_as_asked(row: Any) -> None:
    mirrored = [
        torch.equal(drawn(row, seed, flip=0.3)["pixels"], row["pixels"].flip(-1)) for seed in range(300)
    ]
    assert 60 < sum(mirrored) < 120
    assert all(torch.equal(drawn(row, seed, flip=1.0)["pixels"], row["pixels"].flip(-1)) for seed in range(5))


def test_crops_keep_their_share_and_ratio() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(300):
        left, top, right, bottom = crop_box(90, 60, 0.25, generator)
        assert 0 <= left < right <= 90
        assert 0 <= top < bottom <= 60
        assert 0.7 < (right - left) / (bottom - top) < 1.4
        shares.append((right - left) * (bottom - top) / 5400)
    assert 0.24 < min(shares) < 0.3
    assert 0.8 < max(shares) <= 1


def test_where_no_crop_fits_the_middle_is_taken() -> None:
    assert crop_box(1000, 60, 0.9, torch.Generator()) == (460, 0, 540, 60)  # 4 : 3
    assert crop_box(60, 1000, 0.9, torch.Generator()) == (0, 460, 60, 540)


def test_colours_by_hand() -> None:
    pixels = torch.tensor([[[100, 200]], [[100, 0]], [[100, 0]]], dtype=torch.uint8)  # grey, red
    assert recoloured(pixels, _Change(1, 1, 1)).equal(pixels)
    assert recoloured(pixels, _Change(1.5, 1, 1))[:, 0].T.tolist() == [[150] * 3, [255, 0, 0]]
    assert recoloured(pixels, _Change(1, 1, 0))[:, 0].T.tolist() == [[100] * 3, [60] * 3]
    assert recoloured(pixels, _Change(1, 0, 1))[:, 0].T.tolist() == [[80] * 3, [80] * 3]  # (100 + 59.8) / 2
