"""Random changes to a row in training; all randomness comes from the row's generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit import Row
from toolkit_clip.images import open_rgb
from toolkit_clip.pixels import Box
from toolkit_clip.settings import ClipSettings

RATIOS = (3 / 4, 4 / 3)
"""Of the width of a crop to its height, least and most."""
TRIES = 10
GREY = (0.299, 0.587, 0.114)
"""What red, green and blue give to brightness (ITU-R BT.601)."""


class Augment:
    """`(row, generator) -> row`: one of the row's captions; another part of the image, mirrored, in other colours.

    Source: Szegedy et al. 2015, section 6, for crops, drawn as torchvision's `RandomResizedCrop` does.
    """

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings

    def __call__(self, row: Row, generator: torch.Generator) -> Row:
        settings, pixels = self.settings, row["pixels"]
        place = int(torch.randint(len(row["caption"]), (), generator=generator))
        if settings.min_crop < 1:
            image = open_rgb(row["image"])
            pixels = row["spec"].cropped(image, crop_box(*image.size, settings.min_crop, generator))
        if settings.flip and _uniform(0, 1, generator) < settings.flip:
            pixels = pixels.flip(-1)
        if settings.colour:
            pixels = recoloured(pixels, _Change.drawn(settings.colour, generator))
        return {
            **row,
            "caption": [row["caption"][place]],
            "tokens": [row["tokens"][place]],
            "pixels": pixels,
        }


def crop_box(width: int, height: int, least: float, generator: torch.Generator) -> Box:
    """A part with `least` to all of the area; where ten tries do not fit, the middle, of a ratio as near as can be."""
    for _ in range(TRIES):
        area = width * height * _uniform(least, 1, generator)
        ratio = math.exp(_uniform(math.log(RATIOS[0]), math.log(RATIOS[1]), generator))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = _below(width - wide + 1, generator), _below(height - high + 1, generator)
            return left, top, left + wide, top + high
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    wide, high = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


@dataclass(frozen=True)
class _Change:
    """Factors, 1 for no change."""

    brightness: float
    contrast: float
    saturation: float

    @classmethod
    def drawn(cls, most: float, generator: torch.Generator) -> _Change:
        return cls(*(_uniform(1 - most, 1 + most, generator) for _ in range(3)))


def recoloured(pixels: Tensor, change: _Change) -> Tensor:
    """(3, H, W) uint8: brighter or darker, then nearer to or farther from its mean grey, then from its own grey."""
    weights = torch.tensor(GREY)[:, None, None]
    result = (pixels.float() * change.brightness).clamp(0, 255)
    mean = (result * weights).sum(0).mean()
    result = (mean + (result - mean) * change.contrast).clamp(0, 255)
    grey = (result * weights).sum(0)
    result = (grey + (result - grey) * change.saturation).clamp(0, 255)
    return result.round().to(torch.uint8)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
