"""Rows looked at: what a raw one promises, from headers alone, and what the model sees of a prepared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit import DataError, Row
from toolkit_clip.captions import Captions
from toolkit_clip.images import name_of, opened, orientation
from toolkit_clip.prepare import captions_in


class Inspect:
    """`(row) -> facts`: the image's size and kind, how long captions are, whether the row can be used or why not."""

    def __init__(self, processor: Any) -> None:
        self.captions = Captions(processor.tokenizer)

    def __call__(self, row: Row) -> Mapping[str, float | str]:
        """The facts of a row; its image is not decoded, so a file that breaks off is not noticed.

        Raises:
            DataError: no usable caption, or the image cannot be opened; with `facts`.
        """
        facts: dict[str, float | str] = {}
        try:
            self._text(row, facts)
            self._image(row, facts)
        except DataError as error:
            error.facts = facts
            raise
        return {**facts, "usable": "yes"}

    def _text(self, row: Row, facts: dict[str, float | str]) -> None:
        facts["usable"] = "no: no caption"
        captions, most = captions_in(row), self.captions.most
        longest = max(map(self.captions.length, captions))
        facts["captions of an image"] = len(captions)
        facts["caption tokens"] = longest
        facts["captions"] = f"cut after {most} tokens" if longest > most else "whole"

    def _image(self, row: Row, facts: dict[str, float | str]) -> None:
        facts["usable"] = "no: image missing or unreadable"
        with opened(row["image"]) as image:
            facts |= {"width": image.width, "height": image.height}
            kind = [image.format or name_of(row["image"]), image.mode]
            kind += ["turned by EXIF"] if orientation(image) != 1 else []
            kind += ["animated: first frame"] if getattr(image, "is_animated", False) else []
            facts["image"] = ", ".join(kind)


class Show:
    """`(prepared row) -> text`: how many pixels the model sees, and the caption as tokens, special ones too."""

    def __init__(self, processor: Any) -> None:
        self.tokenizer = processor.tokenizer

    def __call__(self, row: Row) -> str:
        _, height, width = row["pixels"].shape
        texts = [" ".join(self.tokenizer.convert_ids_to_tokens(tokens)) for tokens in row["tokens"]]
        counts = ", ".join(str(len(tokens)) for tokens in row["tokens"])
        return f"{width} x {height} pixels; caption of {counts} tokens: {' | '.join(texts)}"
