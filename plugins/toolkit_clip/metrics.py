"""How well images and captions find one another, and how well labels are guessed."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from toolkit import Metric, Scored

CELLS = 1 << 22
"""Of the matrix of scores that are held at once: 16 MB."""
SAME = 1e-6
"""Cosines that are nearer than this are a tie: float32 knows them no better."""
RECALLS = (1, 5, 10)
WAYS = ("i2t", "t2i")


class Collected:
    """Features by what they are of, each once, in order of arrival."""

    def __init__(self) -> None:
        self.places: dict[Hashable, int] = {}
        self.rows: list[Tensor] = []

    def add(self, keys: Iterable[Hashable], features: Tensor) -> list[int]:
        """The place of each key; `features` (keys, width) are kept of those that are new."""
        return [self._place(key, one) for key, one in zip(keys, features, strict=True)]

    def _place(self, key: Hashable, feature: Tensor) -> int:
        if key not in self.places:
            self.places[key] = len(self.rows)
            self.rows.append(feature.clone())
        return self.places[key]

    def merge(self, other: Self) -> list[int]:
        """Where what the other has is found here."""
        return self.add(other.places, other.stacked()) if other.rows else []

    def stacked(self) -> Tensor:
        """(kept, width) float32."""
        return torch.stack(self.rows)


class Retrieval(Metric):
    """`i2t_recall@K`: the share of images for which one of their captions is among the K nearest; `i2t_median_rank`.

    `t2i_...` is the other way round. Images of the same pixels are one image, captions of the same words one caption,
    which is right for every image that has it. The rank of an image is that of its nearest right caption among all
    captions that are not its own: 1, plus 1 for each that is nearer, plus a half for each that is as near. So a model
    that takes everything for the same has recall 0. No more than the features is kept, and never all scores.

        >>> retrieval = Retrieval()
        >>> near = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
        >>> retrieval.add("abc", near, ["x", "y", "y"], near, [0, 1, 2])
        >>> retrieval.compute()["i2t_recall@1"], retrieval.compute()["t2i_median_rank"]
        (1.0, 1.0)
    """

    higher_is_better = {f"{way}_recall@{k}": True for way in WAYS for k in RECALLS} | {
        f"{way}_median_rank": False for way in WAYS
    }

    def __init__(self) -> None:
        self.images, self.texts = Collected(), Collected()
        self.pairs: set[tuple[int, int]] = set()

    def update(self, scored: Scored) -> None:
        batch, outputs = scored.batch, scored.loss.outputs
        owners = batch["image_of"].tolist()
        images, texts = (_kept(outputs[f"{kind}_embeds"]) for kind in ("image", "text"))
        self.add(pixel_keys(batch["pixels"]), images, batch["captions"], texts, owners)

    def add(
        self,
        images: Iterable[Hashable],
        image_features: Tensor,
        captions: Iterable[Hashable],
        text_features: Tensor,
        image_of: Sequence[int],
    ) -> None:
        """Collect some images and their captions.

        Args:
            images, captions: what tells them apart, B and T of them.
            image_features, text_features: (B, width) and (T, width), of length 1.
            image_of: which of the B images each caption is of.
        """
        places = self.images.add(images, image_features)
        found = self.texts.add(captions, text_features)
        self.pairs |= {(places[owner], text) for owner, text in zip(image_of, found, strict=True)}

    def merge(self, other: Self) -> None:
        images, texts = self.images.merge(other.images), self.texts.merge(other.texts)
        self.pairs |= {(images[image], texts[text]) for image, text in other.pairs}

    def compute(self) -> dict[str, float]:
        if not self.pairs:
            return dict.fromkeys(self.higher_is_better, float("nan"))
        images, texts = self.images.stacked(), self.texts.stacked()
        return {
            **_summary("i2t", ranks(images, texts, sorted(self.pairs))),
            **_summary("t2i", ranks(texts, images, sorted((text, image) for image, text in self.pairs))),
        }


def _summary(way: str, found: Tensor) -> dict[str, float]:
    recalls = {f"{way}_recall@{k}": float((found <= k).double().mean()) for k in RECALLS}
    return {**recalls, f"{way}_median_rank": float(found.quantile(0.5))}


def ranks(queries: Tensor, targets: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """(queries,) float64: the rank of the nearest right target among the wrong ones, ties counting a half.

    Args:
        queries, targets: (queries, width), (targets, width), of length 1.
        pairs: which targets are right, (query, target), by query.
    """
    right = torch.tensor(pairs)  # (pairs, 2)
    size = max(1, CELLS // len(targets))
    return torch.cat(list(_ranks_in_chunks(queries, targets, right, size)))


def _ranks_in_chunks(queries: Tensor, targets: Tensor, right: Tensor, size: int) -> Iterator[Tensor]:
    bounds = torch.searchsorted(right[:, 0].contiguous(), torch.arange(0, len(queries) + size, size))
    for number, start in enumerate(range(0, len(queries), size)):
        scores = queries[start : start + size] @ targets.T  # (chunk, targets)
        query, target = right[bounds[number] : bounds[number + 1]].unbind(dim=1)
        is_right = torch.zeros_like(scores, dtype=torch.bool)
        is_right[query - start, target] = True
        best = scores.masked_fill(~is_right, -torch.inf).amax(dim=1, keepdim=True)
        ahead = scores.masked_fill(is_right, -torch.inf) - best
        yield 1 + (ahead > SAME).sum(dim=1).double() + (ahead.abs() <= SAME).sum(dim=1).double() / 2


class ZeroShot(Metric):
    """`zero_shot_accuracy`: the share of labelled images whose label, as a caption, is the nearest of all labels.

    The labels are those of the rows that are measured; of equally near ones none is taken. Without any label there is
    no such value.
    """

    higher_is_better = True

    def __init__(self) -> None:
        self.classes = Collected()
        self.rows = 0
        self.labels: list[str] = []
        self.images: list[Tensor] = []

    def update(self, scored: Scored) -> None:
        batch, outputs = scored.batch, scored.loss.outputs
        self.rows += len(batch["row_id"])
        if "class_embeds" not in outputs:
            return
        self.classes.add(batch["classes"], _kept(outputs["class_embeds"]))
        for label, image in zip(batch["labels"], _kept(outputs["image_embeds"]), strict=True):
            if label is not None:
                self.labels.append(label)
                self.images.append(image.clone())

    def merge(self, other: Self) -> None:
        self.classes.merge(other.classes)
        self.rows += other.rows
        self.labels += other.labels
        self.images += other.images

    def compute(self) -> dict[str, float]:
        if not self.labels:
            return {} if self.rows else {"zero_shot_accuracy": float("nan")}
        right = [(place, self.classes.places[label]) for place, label in enumerate(self.labels)]
        found = ranks(torch.stack(self.images), self.classes.stacked(), right)
        return {"zero_shot_accuracy": float((found == 1).double().mean())}


def pixel_keys(pixels: Tensor) -> list[bytes]:
    """What tells images apart: a hash of what the model sees of each."""
    return [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in pixels.cpu()]


def _kept(features: Any) -> Tensor:
    kept: Tensor = features.detach().float().cpu()
    return kept
