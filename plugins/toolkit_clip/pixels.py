"""An image as the model's image processor makes it, kept in 8 bits until the model reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toolkit import ModelError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels of the image."""
MOST_SIDE = 2048
"""Pixels; a long image resized to more on its shorter side would take gigabytes."""
_MOST = 1e9


@dataclass(frozen=True)
class PixelSpec:
    """What a model looks at, as its image processor states it.

    Attributes:
        height, width: of what the model gets.
        resize: the shortest side after resizing, or (height, width), or None.
        resample: Pillow's number of the interpolation.
        mean, std: of the pixels, in units of the 8-bit values, by channel.
    """

    height: int
    width: int
    resize: int | tuple[int, int] | None
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def of(cls, processor: Any) -> PixelSpec:
        """That of a `transformers` image processor.

        Raises:
            ModelError: its images have no one size, or it is set to what no image can be made by.
        """
        size, crop = _sizes(processor)
        if crop is None and not isinstance(size, tuple):
            raise ModelError(
                "the image processor makes images of no fixed size",
                hint="set do_center_crop, or do_resize with height and width, in preprocessor_config.json",
            )
        height, width = crop if crop is not None else cast(tuple[int, int], size)
        unit = processor.rescale_factor if processor.do_rescale else 1.0
        if not _is_number(unit, above=0):
            raise _wrong("rescale_factor", unit)
        mean, std = (
            (processor.image_mean, processor.image_std) if processor.do_normalize else ([0] * 3, [1] * 3)
        )
        return cls(
            height,
            width,
            size,
            _resampling(processor.resample),
            mean=_divided("image_mean", mean, unit),
            std=_divided("image_std", std, unit, above=0),
        )

    def fitted(self, image: Image.Image) -> Tensor:
        """(3, height, width) uint8: resized and cut as the image processor does it, to the last bit.

        Args:
            image: RGB.
        """
        size = self._resized(*image.size)
        if size != image.size:
            image = image.resize(size, Image.Resampling(self.resample))
        return self._centre(to_tensor(image))

    def cropped(self, image: Image.Image, box: Box) -> Tensor:
        """(3, height, width) uint8: a part of the image, resized without keeping its proportions."""
        size = (self.width, self.height)
        return to_tensor(image.resize(size, Image.Resampling(self.resample), box=box))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        if self.resize is None:
            return width, height
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        longest = int(self.resize * max(width, height) / min(width, height))
        return (self.resize, longest) if width <= height else (longest, self.resize)

    def _centre(self, pixels: Tensor) -> Tensor:
        """The middle of (3, H, W), with black around it where it is smaller, as in `transformers`."""
        _, height, width = pixels.shape
        over = (max(self.height - height, 0), max(self.width - width, 0))
        above, left = (-(-extra // 2) for extra in over)
        framed = torch.nn.functional.pad(pixels, (left, over[1] - left, above, over[0] - above))
        top, start = (framed.shape[1] - self.height) // 2, (framed.shape[2] - self.width) // 2
        return framed[:, top : top + self.height, start : start + self.width]


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) uint8 of an RGB image."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalised(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What the model reads, float32: (pixels - mean) / std.

    Args:
        pixels: (B, 3, H, W) uint8.
        mean, std: (3,), in units of 8-bit values.
    """
    return (pixels.to(mean.dtype) - mean[:, None, None]) / std[:, None, None]


def _sizes(processor: Any) -> tuple[int | tuple[int, int] | None, tuple[int, int] | None]:
    """To what an image processor resizes, and what it cuts out of the middle."""
    crop = processor.crop_size if getattr(processor, "do_center_crop", False) else None
    size: Any = processor.size if processor.do_resize else None
    resize: int | tuple[int, int] | None = None
    if size is not None and "shortest_edge" in dict(size):
        resize = _side("size", size, "shortest_edge")
    elif size is not None:
        resize = (_side("size", size, "height"), _side("size", size, "width"))
    return resize, None if crop is None else (
        _side("crop_size", crop, "height"),
        _side("crop_size", crop, "width"),
    )


def _side(name: str, sizes: Any, key: str) -> int:
    value = dict(sizes).get(key)
    if not isinstance(value, int) or not 1 <= value <= MOST_SIDE:
        raise _wrong(name, value)
    return value


def _is_number(value: Any, above: float) -> bool:
    return isinstance(value, int | float) and above < value < _MOST


def _resampling(value: Any) -> int:
    try:
        return int(Image.Resampling(value))
    except ValueError:
        raise _wrong("resample", value) from None


def _wrong(name: str, value: Any) -> ModelError:
    return ModelError(
        f"{name} of the image processor is {value!r:.60}, which no image can be made by",
        hint="copy or download the model's preprocessor_config.json again",
    )


def _divided(name: str, values: Any, unit: float, above: float = -_MOST) -> tuple[float, float, float]:
    try:
        red, green, blue = values
    except (TypeError, ValueError):
        raise _wrong(name, values) from None
    if not all(_is_number(one, above) for one in (red, green, blue)):
        raise _wrong(name, values)
    return red / unit, green / unit, blue / unit
