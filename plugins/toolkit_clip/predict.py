"""Images and captions given together: how well each caption fits each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit import DataError, unwrapped
from toolkit_clip.captions import Captions, captions_of
from toolkit_clip.features import image_features, text_features
from toolkit_clip.images import open_rgb, opened
from toolkit_clip.pixels import PixelSpec, normalised

AT_ONCE = 16
"""Images, or captions, in one forward."""
SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".avif",
    ".heic",
    ".ico",
    ".jp2",
)


class Matcher:
    """`(inputs) -> {image: [{"caption", "score"}, ...]}`, the best caption first; the score is the cosine, -1 to 1.

    An input is an image if there is a file of that name, or if it ends as the names of images do; all others are
    captions.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.clip, self.captions = unwrapped(model), Captions(processor.tokenizer)
        self.spec = PixelSpec.of(processor.image_processor)
        self.mean, self.std = torch.tensor(self.spec.mean), torch.tensor(self.spec.std)

    def __call__(self, inputs: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """The captions for each image.

        Raises:
            DataError: there are no images or no captions, an image cannot be read, or a caption is empty.
        """
        images = list(dict.fromkeys(one for one in inputs if is_image(one)))
        captions = list(dict.fromkeys(one for one in inputs if not is_image(one)))
        _check_both(images, captions)
        for path in images:
            with opened(path):
                pass
        scores = self._images(images) @ self._texts([captions_of(one)[0] for one in captions]).T
        return {path: ranked(captions, row) for path, row in zip(images, scores.tolist(), strict=True)}

    @torch.inference_mode()
    def _images(self, paths: list[str]) -> Tensor:
        """(images, width)."""
        found = []
        for some in _some(paths):
            pixels = torch.stack([self.spec.fitted(open_rgb(path)) for path in some])
            values = normalised(pixels, self.mean, self.std).to(self.clip.device)
            found.append(image_features(self.clip, values).cpu())
        return torch.cat(found)

    @torch.inference_mode()
    def _texts(self, captions: list[str]) -> Tensor:
        """(captions, width)."""
        found = []
        for some in _some(captions):
            tokens = self.captions.batch([self.captions.tokens(one) for one in some])
            on_device = {key: value.to(self.clip.device) for key, value in tokens.items()}
            found.append(text_features(self.clip, on_device).cpu())
        return torch.cat(found)


def is_image(given: str) -> bool:
    """Whether an input of `toolkit predict` is an image, and no caption.

    >>> is_image("holiday/cat.JPG"), is_image("a cat on a mat.")
    (True, False)
    """
    if given.lower().endswith(SUFFIXES):
        return True
    return len(given) < 256 and "\0" not in given and Path(given).is_file()


def ranked(captions: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """The best first; equal ones in the order they were given."""
    pairs = sorted(zip(captions, scores, strict=True), key=lambda pair: -pair[1])
    return [{"caption": caption, "score": round(score, 6)} for caption, score in pairs]


def _check_both(images: Sequence[str], captions: Sequence[str]) -> None:
    example = 'toolkit predict RUN_DIR cat.png dog.png "a cat" "a dog"'
    if not images:
        raise DataError("no image was given, only captions", hint=f"name image files too: {example}")
    if not captions:
        raise DataError("no caption was given, only images", hint=f"add captions to choose from: {example}")


def _some(items: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
