"""Pixels against transformers' own image processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toolkit_clip.pixels import PixelSpec, normalised
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from toolkit import ModelError

Picture = Callable[..., Image.Image]


def values(processor: Any, image: Image.Image) -> torch.Tensor:
    """What our way gives the model."""
    spec = PixelSpec.of(processor)
    return normalised(spec.fitted(image)[None], torch.tensor(spec.mean), torch.tensor(spec.std))


PROCESSORS = {
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}),
    "crop": CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 47}),
    "framed": CLIPImageProcessorPil(do_resize=False, crop_size={"height": 65, "width": 50}),
    "siglip": SiglipImageProcessorPil(size={"height": 48, "width": 32}),
    "bilinear": CLIPImageProcessorPil(
        size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48}, resample=2
    ),
    "raw": CLIPImageProcessorPil(
        size={"shortest_edge": 48},
        crop_size={"height": 48, "width": 48},
        do_normalize=False,
        do_rescale=False,
    ),
}


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize(
    ("width", "height"), [(48, 48), (100, 61), (61, 100), (30, 47), (401, 48), (49, 48), (7, 300)]
)
def test_they_are_those_of_the_image_processor(kind: str, width: int, height: int, picture: Picture) -> None:
    """The 8-bit values exactly, so that what is left is the rounding of float32."""
    image, processor = picture(width, height), PROCESSORS[kind]
    theirs = processor(image, return_tensors="pt").pixel_values.float()
    torch.testing.assert_close(values(processor, image), theirs, rtol=1e-5, atol=2e-6)


def test_the_eight_bits_are_exact(picture: Picture) -> None:
    processor, image = PROCESSORS["raw"], picture(130, 75)
    theirs = processor(image, return_tensors="np").pixel_values[0]
    assert (PixelSpec.of(processor).fitted(image).numpy() == np.asarray(theirs)).all()


def test_a_crop_is_that_part(picture: Picture) -> None:
    spec, image = PixelSpec.of(PROCESSORS["clip"]), picture(96, 96)
    part = spec.cropped(image, (20, 30, 68, 78))
    assert torch.equal(part, torch.from_numpy(np.asarray(image)[30:78, 20:68].copy()).permute(2, 0, 1))


def test_images_of_no_fixed_size_are_refused() -> None:
    with pytest.raises(ModelError, match="makes images of no fixed size"):
        PixelSpec.of(CLIPImageProcessorPil(do_center_crop=False))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_mean", [0, 0]), ("image_mean", "abc"), ("image_mean", [float("nan")] * 3), ("image_std", None),
        ("image_std", [0, 0, 0]), ("image_std", [10**30] * 3), ("rescale_factor", 0), ("rescale_factor", "x"),
        ("resample", "x"), ("resample", 99), ("resample", [1]), ("size", {"shortest_edge": -5}),
        ("size", {"shortest_edge": "x"}), ("size", {"longest_edge": 64}), ("size", {"shortest_edge": 10**6}),
        ("crop_size", {"height": "x", "width": 48}), ("crop_size", {"height": 48}), ("crop_size", {"shortest_edge": 4}),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_image_is_refused(name: str, value: Any) -> None:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    setattr(processor, name, value)
    with pytest.raises(
        ModelError, match=f"{name} of the image processor is .*, which no image can be made by"
    ):
        PixelSpec.of(processor)
