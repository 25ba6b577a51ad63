"""The contrastive losses: of all images with all captions, so of a batch as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from toolkit import Batch, Loss, ModelError, unwrapped
from toolkit_clip.features import Features, features, precise
from toolkit_clip.settings import ClipSettings

Contrast = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`(images, texts, log of the scale, bias or None) -> summed loss`; row i of either belongs to row i of the other."""


def infonce(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy in nats, summed over B images: which caption is whose, and which image is whose.

    A bias changes nothing: it is the same for all captions.

    Args:
        images, texts: (B, width), of length 1.
    Source: Radford et al. 2021, figure 3.
    """
    scores = log_scale.exp() * images @ texts.T  # (B, B)
    right = torch.arange(len(scores), device=scores.device)
    both = cross_entropy(scores, right, reduction="sum") + cross_entropy(scores.T, right, reduction="sum")
    return both / 2


def siglip(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Binary cross-entropy in nats of each pair, summed over all B x B of them; a target is an image, so 1 / B is left.

    Args:
        images, texts: (B, width), of length 1.
    Source: Zhai et al. 2023, algorithm 1.
    """
    assert bias is not None
    scores = log_scale.exp() * images @ texts.T + bias  # (B, B)
    signs = 2 * torch.eye(len(scores), dtype=scores.dtype, device=scores.device) - 1
    return -logsigmoid(signs * scores).sum()


LOSSES: dict[str, Contrast] = {"infonce": infonce, "siglip": siglip}


def loss_name(model: Any, settings: ClipSettings) -> str:
    """The loss that the settings name, or that the model was made for.

    Args:
        model: unwrapped.
    Raises:
        ModelError: the loss needs a bias, which the model does not have.
    """
    has_bias = hasattr(model, "logit_bias")
    if settings.loss == "siglip" and not has_bias:
        raise ModelError(
            f"clip.loss: siglip learns a bias, which a {type(model).__name__} has no place for",
            hint="take a SigLIP model, such as google/siglip-base-patch16-224, or clip.loss=infonce",
        )
    return settings.loss or ("siglip" if has_bias else "infonce")


class BatchLoss:
    """`(model, batch) -> Loss`, in nats per image, of one batch; of several captions of an image the first counts."""

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, batch: Batch) -> Loss:
        return self.of(features(model, batch), unwrapped(model), batch)

    def of(self, made: Features, model: Any, batch: Batch) -> Loss:
        """The loss of features that have been made; `model` is unwrapped."""
        contrast = LOSSES[loss_name(model, self.settings)]
        texts = made.texts[first_captions(batch["image_of"])]
        log_scale, bias = temperature(model)
        with torch.autocast(texts.device.type, enabled=False):
            total = contrast(made.images, texts, log_scale, bias)
        outputs = {"image_embeds": made.images, "text_embeds": made.texts}
        return Loss(
            total,
            batch["num_targets"],
            report={"logit_scale": float(log_scale.detach().exp())},
            outputs=outputs,
        )


def temperature(model: Any) -> tuple[Tensor, Tensor | None]:
    """Logarithm of the scale, and the bias of models that have one; scalars."""
    bias = getattr(model, "logit_bias", None)
    return precise(model.logit_scale).reshape(()), None if bias is None else precise(bias).reshape(())


def first_captions(image_of: Tensor) -> Tensor:
    """(B,): the place of each image's first caption; `image_of` (T,) ascends.

    >>> first_captions(torch.tensor([0, 0, 1, 2, 2])).tolist()
    [0, 2, 3]
    """
    return torch.cat([image_of.new_zeros(1), (image_of.diff() > 0).nonzero().flatten() + 1])
