"""What a model makes of images and captions: points on the unit sphere, to be compared by their cosine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolkit import Batch, unwrapped
from toolkit_clip.lengths import by_length
from toolkit_clip.pixels import normalised


@dataclass(frozen=True)
class Features:
    """Of one batch, or of a part of it.

    Attributes:
        images: (B, width), of length 1.
        texts: (T, width), of length 1; in training T = B, and caption i is image i's.
    """

    images: Tensor
    texts: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Features]) -> Features:
        return cls(torch.cat([one.images for one in parts]), torch.cat([one.texts for one in parts]))


def features(model: Any, batch: Batch) -> Features:
    """One forward through both towers, in the model's precision; the features are at least float32.

    Args:
        model: as it is, or wrapped by PEFT or by torch's data parallelism, whose hooks go by its forward.
    """
    texts = {key: batch[key] for key in ("input_ids", "attention_mask") if key in batch}
    pixels = normalised(batch["pixels"], batch["mean"], batch["std"])
    with by_length(unwrapped(model)):
        outputs = model(pixel_values=pixels, **texts)
    return Features(precise(outputs.image_embeds), precise(outputs.text_embeds))


def text_features(model: Any, tokens: Mapping[str, Tensor]) -> Tensor:
    """(T, width), of length 1.

    Args:
        model: unwrapped, see `toolkit.unwrapped`.
        tokens: `input_ids`, and `attention_mask` if it reads one.
    """
    return _unit(model.get_text_features(**tokens).pooler_output)


def image_features(model: Any, pixel_values: Tensor) -> Tensor:
    """(B, width), of length 1; `model` is unwrapped."""
    return _unit(model.get_image_features(pixel_values=pixel_values).pooler_output)


def precise(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(precise(values), dim=-1)
