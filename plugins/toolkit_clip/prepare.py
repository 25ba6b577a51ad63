"""One raw row made ready: its image decoded and brought to the model's size, its captions in tokens."""

from __future__ import annotations

from typing import Any

import PIL
from PIL import features
from torch import Tensor

from toolkit import DataError, Recipe, Row, RowCache
from toolkit_clip.captions import Captions, captions_of
from toolkit_clip.images import content_of, name_of, open_rgb
from toolkit_clip.pixels import PixelSpec

VERSIONS = [
    PIL.__version__,
    *(features.version(one) or "" for one in ("jpg", "libjpeg_turbo", "webp", "avif")),
]
"""Of what decodes an image."""


class Prepare:
    """`(row) -> row`: `pixels` (3, H, W) uint8 and `tokens`, a list a caption, are added; `caption` becomes a list.

    Of the image no more is held, so that a large batch holds no large images. `spec` is for `Augment`, which may cut
    other pixels out of it. An image file is decoded and resized once: its pixels are kept in the recipe's cache.
    """

    def __init__(self, recipe: Recipe, processor: Any) -> None:
        self.captions, self.spec = Captions(processor.tokenizer), PixelSpec.of(processor.image_processor)
        self.kept = RowCache(recipe, "pixels", **vars(self.spec), versions=VERSIONS)

    def __call__(self, row: Row) -> Row:
        """Decode and tokenise.

        Raises:
            DataError: the image cannot be read, or a caption is missing.
        """
        captions = captions_in(row)
        pixels = self._pixels(row["image"])
        tokens = [self.captions.tokens(one) for one in captions]
        return {**row, "caption": captions, "pixels": pixels, "spec": self.spec, "tokens": tokens}

    def _pixels(self, image: Any) -> Tensor:
        content = content_of(image)
        if content is None:
            return self.spec.fitted(open_rgb(image))
        pixels: Tensor = self.kept.get(
            content, lambda: {"pixels": self.spec.fitted(open_rgb(image)).contiguous()}
        )["pixels"]
        return pixels


def captions_in(row: Row) -> list[str]:
    """The captions of a row.

    Raises:
        DataError: there is none; it names the row's image.
    """
    try:
        return captions_of(row["caption"])
    except DataError as error:
        raise DataError(f"{name_of(row['image'])}: {error.message}", error.hint) from None
