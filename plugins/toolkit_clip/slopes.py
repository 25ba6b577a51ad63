"""The losses with their gradients, over rows in blocks: the scores of all rows with one another are never held.

An image's row of scores is made twice for `infonce`: first for the sums that its softmax divides by, along and across;
then for the gradients. Everything is that of `loss.py`, worked out by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

CELLS = 1 << 20
"""Of the matrix of scores that are held at once: 4 MB."""


@dataclass(frozen=True)
class Gradients:
    """A summed loss and its gradients.

    Attributes:
        total, log_scale: scalars.
        images, texts: (B, width).
        bias: a scalar; None where the loss does not depend on it.
    """

    total: Tensor
    images: Tensor
    texts: Tensor
    log_scale: Tensor
    bias: Tensor | None


Gradient = Callable[[Tensor, Tensor, Tensor, Tensor | None], Gradients]
"""`(images, texts, log of the scale, bias or None) -> Gradients`; row i of either belongs to row i of the other."""


@torch.no_grad()
def infonce(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | None = None) -> Gradients:
    """Of `loss.infonce`; a bias changes nothing.

    Args:
        images, texts: (B, width), of length 1.
    """
    scale, sums = log_scale.exp(), _Sums(images, texts, log_scale)
    right = scale * (images * texts).sum()
    total = (sums.of_images.sum() + sums.of_texts.sum()) / 2 - right
    for_images, for_texts, for_scale = (
        torch.zeros_like(images),
        torch.zeros_like(texts),
        torch.zeros_like(scale),
    )
    for rows in blocks(len(images)):
        scores = scale * images[rows] @ texts.T  # (block, B)
        slopes = (scores - sums.of_images[rows, None]).exp_()
        slopes += (scores - sums.of_texts).exp_()
        slopes /= 2
        slopes.diagonal(rows.start).sub_(1)
        for_images[rows] = scale * (slopes @ texts)
        for_texts += scale * (slopes.T @ images[rows])
        for_scale += slopes.mul_(scores).sum()
    return Gradients(total, for_images, for_texts, for_scale, None)


class _Sums:
    """Logarithms of the sums of e to the scores: `of_images` (B,) over captions, `of_texts` (B,) over images."""

    def __init__(self, images: Tensor, texts: Tensor, log_scale: Tensor) -> None:
        along, across = [], torch.full_like(images[:, 0], -torch.inf)
        for rows in blocks(len(images)):
            scores = log_scale.exp() * images[rows] @ texts.T  # (block, B)
            along.append(scores.logsumexp(dim=1))
            across = torch.logaddexp(across, scores.logsumexp(dim=0))
        self.of_images, self.of_texts = torch.cat(along), across


@torch.no_grad()
def siglip(images: Tensor, texts: Tensor, log_scale: Tensor, bias: Tensor | None = None) -> Gradients:
    """Of `loss.siglip`.

    Args:
        images, texts: (B, width), of length 1.
    """
    assert bias is not None
    scale, total = log_scale.exp(), torch.zeros_like(log_scale)
    for_images, for_texts = torch.zeros_like(images), torch.zeros_like(texts)
    for_scale, for_bias = torch.zeros_like(scale), torch.zeros_like(bias)
    for rows in blocks(len(images)):
        scores = scale * images[rows] @ texts.T  # (block, B)
        wrong = scores + bias  # how far each pair is on the wrong side
        wrong.diagonal(rows.start).neg_()
        total += softplus(wrong).sum()
        slopes = wrong.sigmoid_()
        slopes.diagonal(rows.start).neg_()
        for_images[rows] = scale * (slopes @ texts)
        for_texts += scale * (slopes.T @ images[rows])
        for_bias += slopes.sum()
        for_scale += slopes.mul_(scores).sum()
    return Gradients(total, for_images, for_texts, for_scale, for_bias)


GRADIENTS: dict[str, Gradient] = {"infonce": infonce, "siglip": siglip}


def blocks(rows: int) -> Iterator[slice]:
    """As many rows at once as have no more than `CELLS` scores.

    >>> list(blocks(3))
    [slice(0, 3, None)]
    """
    size = max(1, CELLS // rows)
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))
