"""A training step on a contrastive batch of any size, in the memory of a small one.

features = each part of the batch, without gradients, the random state kept     both towers
    gathered over ranks
loss     = all features with one another                                        no tower
slopes   = gradient of the loss by the features and the temperature
for each part again: the random state put back, features with gradients
    backward(features x slopes)

The gradients are those of the whole batch at once, for the loss depends on a part only through its features.
Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from toolkit import Batch, Loss
from toolkit_clip.features import Features, features, unwrapped
from toolkit_clip.loss import LOSSES, Contrast, first_captions, loss_name, temperature
from toolkit_clip.settings import ClipSettings


class Step:
    """`(model, batch, backward) -> Loss`: every image with every caption of the batch, and of all ranks' batches."""

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings

    def __call__(self, model: Any, batch: Batch, backward: Callable[[Tensor], None]) -> Loss:
        """Compute the gradients.

        Args:
            batch: see `Collator`; of several captions of an image the first counts.
        Returns:
            This rank's share of the summed loss of all ranks.
        """
        clip = unwrapped(model)
        contrast = LOSSES[loss_name(clip, self.settings)]
        parts = list(parts_of(batch, self.settings.micro_batch_size))
        if len(parts) == 1:
            made = features(model, parts[0])
            slopes = Slopes.of(contrast, made, *temperature(clip))
            backward(slopes.at(made) + slopes.at_temperature(*temperature(clip)))
        else:
            before, made = _first_pass(model, parts)
            slopes = Slopes.of(contrast, made, *temperature(clip))
            _second_pass(model, parts, before, slopes, backward)
        report = {"logit_scale": float(clip.logit_scale.detach().exp())}
        return Loss(slopes.share, batch["num_targets"], report=report)


def parts_of(batch: Batch, size: int | None) -> Iterator[Batch]:
    """What the model reads of each `size` rows, or of all of them: an image, and the first of its captions."""
    rows, first = len(batch["pixels"]), first_captions(batch["image_of"])
    texts: Batch = {key: batch[key][first] for key in ("input_ids", "attention_mask") if key in batch}
    read = {"pixels": batch["pixels"], **texts}
    for start in range(0, rows, size or rows):
        part = {key: value[start : start + (size or rows)] for key, value in read.items()}
        yield {**part, "mean": batch["mean"], "std": batch["std"]}


# ---- the two passes -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Randomness:
    """What dropout will draw from, on the CPU and on the model's device."""

    device: torch.device
    cpu: Tensor
    own: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> Randomness:
        own = None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device)
        return cls(device, torch.get_rng_state(), own)

    def put_back(self) -> None:
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            torch.get_device_module(self.device).set_rng_state(self.own, self.device)


@torch.no_grad()
def _first_pass(model: Any, parts: list[Batch]) -> tuple[list[Randomness], Features]:
    """The random state before each part, and the features of all of them."""
    before, made = [], []
    for part in parts:
        before.append(Randomness.now(part["pixels"].device))
        made.append(features(model, part))
    return before, Features(torch.cat([one.images for one in made]), torch.cat([one.texts for one in made]))


def _second_pass(
    model: Any,
    parts: list[Batch],
    before: list[Randomness],
    slopes: Slopes,
    backward: Callable[[Tensor], None],
) -> None:
    """Gradients part by part; the last one, in which ranks add up theirs, brings the temperature's."""
    start = 0
    for number, part in enumerate(parts):
        end, is_last = start + len(part["pixels"]), number == len(parts) - 1
        before[number].put_back()
        with nullcontext() if is_last else _no_sync(model):
            total = slopes.at(features(model, part), slice(start, end))
            backward(total + slopes.at_temperature(*temperature(unwrapped(model))) if is_last else total)
        start = end


def _no_sync(model: Any) -> AbstractContextManager[Any]:
    """Gradients stay on their rank; there is nothing to hold back where there is but one."""
    return model.no_sync() if hasattr(model, "no_sync") else nullcontext()


# ---- the loss of all features --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Slopes:
    """The loss of a batch, and its gradient by everything it is made of.

    Attributes:
        share: of the summed loss, this rank's; a scalar.
        images, texts: (B, width), gradient of the whole loss by this rank's features.
        log_scale, bias: this rank's share of the gradient by the temperature; None where there is no bias, or the
            loss does not depend on it.
    """

    share: Tensor
    images: Tensor
    texts: Tensor
    log_scale: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, contrast: Contrast, made: Features, log_scale: Tensor, bias: Tensor | None) -> Slopes:
        """Of these features together with those of the other ranks."""
        ranks = distributed.get_world_size() if distributed.is_initialized() else 1
        images, texts, scale = (_leaf(one) for one in (made.images, made.texts, log_scale))
        offset = None if bias is None else _leaf(bias)
        with torch.enable_grad():
            total = contrast(_gathered(images), _gathered(texts), scale, offset)
        found = torch.autograd.grad(
            total, [images, texts, scale, *([] if offset is None else [offset])], allow_unused=True
        )
        shares = [None if one is None else one / ranks for one in found[2:]]
        return cls(total.detach() / ranks, found[0], found[1], *shares, *[None] * (offset is None))

    def at(self, made: Features, rows: slice = slice(None)) -> Tensor:
        """A scalar whose gradient is that of the loss through the features of these rows."""
        images, texts = self.images[rows], self.texts[rows]
        return (made.images * images).sum() + (made.texts * texts).sum()

    def at_temperature(self, log_scale: Tensor, bias: Tensor | None) -> Tensor:
        """The same through the temperature."""
        total = log_scale * self.log_scale
        return total if bias is None or self.bias is None else total + bias * self.bias


def _leaf(values: Tensor) -> Tensor:
    return values.detach().requires_grad_()


def _gathered(own: Tensor) -> Tensor:
    """(ranks x B, width): the features of all ranks, in order; the gradient is by this rank's only."""
    if not distributed.is_initialized():
        return own
    everybodys = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everybodys, own.detach())
    everybodys[distributed.get_rank()] = own
    return torch.cat(everybodys)
