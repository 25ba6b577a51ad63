"""Prepared rows as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolkit import Batch, Row
from toolkit_clip.captions import Captions
from toolkit_clip.pixels import PixelSpec
from toolkit_clip.settings import ClipSettings


class Collator:
    """Images in 8 bits, captions padded, and what belongs together."""

    def __init__(self, processor: Any, settings: ClipSettings) -> None:
        self.captions, self.template = Captions(processor.tokenizer), settings.label_template
        spec = PixelSpec.of(processor.image_processor)
        self.mean, self.std = torch.tensor(spec.mean), torch.tensor(spec.std)

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Stack the images and lay out the captions.

        Args:
            rows: as `Prepare` makes them, and `Augment` where it does: then each has one caption.
        Returns:
            `pixels` (B, 3, H, W) uint8, and `mean`, `std` (3,) float32 to normalise them by; `input_ids` and maybe
            `attention_mask` (T, tokens) int64, the captions of all rows in order; `image_of` (T,) int64, which row
            each is of; `captions`, the same as texts. Where rows have labels: maybe `labels`, texts or None, and maybe
            `classes`, the batch's C distinct ones, as they are called in captions: maybe `class_ids` (C, letters)
            int64 and maybe `class_mask` (C, letters) int64.
        """
        counts = torch.tensor([len(row["tokens"]) for row in rows])
        return {
            "pixels": torch.stack([row["pixels"] for row in rows]),
            "mean": self.mean,
            "std": self.std,
            **self.captions.batch([one for row in rows for one in row["tokens"]]),
            "image_of": torch.repeat_interleave(torch.arange(len(rows)), counts),
            "captions": [one for row in rows for one in row["caption"]],
            **self._labels([_label_of(row) for row in rows]),
            "num_targets": len(rows),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
            "work": {"images": float(len(rows))},
        }

    def _labels(self, labels: list[str | None]) -> Batch:
        classes = sorted({label for label in labels if label is not None})
        if not classes:
            return {}
        texts = [self.template.replace("{label}", one) for one in classes]
        prompts = self.captions.batch([self.captions.tokens(one) for one in texts])
        names = {"input_ids": "class_ids", "attention_mask": "class_mask"}
        return {
            "labels": labels,
            "classes": classes,
            **{names[key]: value for key, value in prompts.items()},
        }


def _label_of(row: Row) -> str | None:
    label = row.get("label")
    return None if label is None or label == "" else str(label)
