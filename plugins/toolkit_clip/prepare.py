"""One raw row made ready: its image decoded and brought to the model's size, its captions in tokens."""

from __future__ import annotations

from typing import Any

from toolkit import DataError, Row
from toolkit_clip.captions import Captions, captions_of
from toolkit_clip.images import name_of, open_rgb
from toolkit_clip.pixels import PixelSpec


class Prepare:
    """`(row) -> row`: `pixels` (3, H, W) uint8 and `tokens`, a list a caption, are added; `caption` becomes a list.

    Of the image no more is kept, so that a large batch holds no large images. `spec` is for `Augment`, which may cut
    other pixels out of it.
    """

    def __init__(self, processor: Any) -> None:
        self.captions, self.spec = Captions(processor.tokenizer), PixelSpec.of(processor.image_processor)

    def __call__(self, row: Row) -> Row:
        """Decode and tokenise.

        Raises:
            DataError: the image cannot be read, or a caption is missing.
        """
        captions = captions_in(row)
        pixels = self.spec.fitted(open_rgb(row["image"]))
        tokens = [self.captions.tokens(one) for one in captions]
        return {**row, "caption": captions, "pixels": pixels, "spec": self.spec, "tokens": tokens}


def captions_in(row: Row) -> list[str]:
    """The captions of a row.

    Raises:
        DataError: there is none; it names the row's image.
    """
    try:
        return captions_of(row["caption"])
    except DataError as error:
        raise DataError(f"{name_of(row['image'])}: {error.message}", error.hint) from None
