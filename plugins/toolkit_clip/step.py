"""A training step on a contrastive batch of any size, in the memory of a small one.

features = each part of the batch, without gradients, the random state kept     both towers
    gathered over ranks
slopes   = gradient of the loss by all features and the temperature             no tower
for each part again: the random state put back, features with gradients         towers that train
    backward(features x slopes)

The last part is computed once: its activations are kept, as there is room for those of one part. The gradients are
those of the whole batch at once, for the loss depends on a part only through its features.
Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (GradCache).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from toolkit import Batch, Loss, unwrapped
from toolkit_clip.features import Features, features
from toolkit_clip.loss import first_captions, loss_name, temperature
from toolkit_clip.recall import Randomness, Recall
from toolkit_clip.settings import ClipSettings
from toolkit_clip.slopes import GRADIENTS, Gradient


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
        gradient = GRADIENTS[loss_name(clip, self.settings)]
        parts = list(parts_of(batch, self.settings.micro_batch_size))
        if len(parts) == 1:
            made = features(model, parts[0])
            if not batch["num_targets"]:  # this rank has no rows in this step
                made = Features(made.images[:0], made.texts[:0])
            slopes = Slopes.of(gradient, made, *temperature(clip))
            backward(slopes.at(made) + slopes.at_temperature(*temperature(clip)))
        else:
            slopes = _in_two_passes(model, parts, gradient, backward)
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


def _in_two_passes(
    model: Any, parts: list[Batch], gradient: Gradient, backward: Callable[[Tensor], None]
) -> Slopes:
    """Gradients part by part; the one that is computed last, in which ranks add up theirs, brings the temperature's."""
    clip, rows = unwrapped(model), len(parts[0]["pixels"])
    with Recall().attached(clip) as recall:
        before, made = _without_gradients(model, parts[:-1], recall)
        with _no_sync(model):
            recall.begin(len(parts) - 1)
            kept = features(model, parts[-1])
            after = Randomness.now(kept.images.device)
            slopes = Slopes.of(gradient, Features.cat([*made, kept]), *temperature(clip))
            backward(slopes.at(kept, (len(parts) - 1) * rows))
        del kept, made
        for number, part in enumerate(parts[:-1]):
            before[number].put_back()
            recall.begin(number)
            is_last = number == len(parts) - 2
            with nullcontext() if is_last else _no_sync(model):
                total = slopes.at(features(model, part), number * rows)
                backward(total + slopes.at_temperature(*temperature(clip)) if is_last else total)
        after.put_back()
    return slopes


@torch.no_grad()
def _without_gradients(
    model: Any, parts: list[Batch], recall: Recall
) -> tuple[list[Randomness], list[Features]]:
    """The random state before each part, and its features."""
    before, made = [], []
    for number, part in enumerate(parts):
        before.append(Randomness.now(part["pixels"].device))
        recall.begin(number)
        made.append(features(model, part))
    return before, made


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
    def of(cls, gradient: Gradient, made: Features, log_scale: Tensor, bias: Tensor | None) -> Slopes:
        """Of these features together with those of the other ranks."""
        counts = _counts(made.images)
        ranks, rank = len(counts), distributed.get_rank() if len(counts) > 1 else 0
        images, texts = (_gathered(one.detach(), counts) for one in (made.images, made.texts))
        found = gradient(images, texts, log_scale, bias)
        own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return cls(
            found.total / ranks,
            found.images[own],
            found.texts[own],
            found.log_scale / ranks,
            None if found.bias is None else found.bias / ranks,
        )

    def at(self, made: Features, start: int = 0) -> Tensor:
        """A scalar whose gradient is that of the loss through these features, the batch's from row `start` on."""
        rows = slice(start, start + len(made.images))
        return (made.images * self.images[rows]).sum() + (made.texts * self.texts[rows]).sum()

    def at_temperature(self, log_scale: Tensor, bias: Tensor | None) -> Tensor:
        """The same through the temperature."""
        total = log_scale * self.log_scale
        return total if bias is None or self.bias is None else total + bias * self.bias


def _counts(own: Tensor) -> list[int]:
    """How many rows each rank has."""
    if not distributed.is_initialized():
        return [len(own)]
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=own.device)
    counts[distributed.get_rank()] = len(own)
    distributed.all_reduce(counts)
    return counts.tolist()


def _gathered(own: Tensor, counts: list[int]) -> Tensor:
    """(rows of all ranks, width): the features of all ranks, in order."""
    if not distributed.is_initialized():
        return own
    padded = torch.nn.functional.pad(own, (0, 0, 0, max(counts) - len(own)))
    everybodys = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(everybodys, padded)
    return torch.cat([one[:count] for one, count in zip(everybodys, counts, strict=True)])
