"""How well images and captions find one another, and how well labels are guessed."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from toolkit import Metric, Scored

ROWS = 1024
"""Of features in a block. The scores of two blocks are held at once: 4 MB."""
SAME = 1e-6
"""Cosines that are nearer than this are a tie: float32 knows them no better."""
RECALLS = (1, 5, 10)
WAYS = ("i2t", "t2i")


class Grown:
    """Features of more and more rows, (rows, width) in blocks; but for a part of the last no more than they take."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.count = 0

    def __len__(self) -> int:
        return self.count

    def add(self, features: Tensor) -> None:
        """`features`: (rows, width), of which a copy is kept."""
        while len(features):
            place = self.count % ROWS
            if not place:
                self.blocks.append(features.new_empty(ROWS, features.shape[1]))
            taken = features[: ROWS - place]
            self.blocks[-1][place : place + len(taken)] = taken
            self.count, features = self.count + len(taken), features[len(taken) :]

    def filled(self) -> list[Tensor]:
        """The blocks, the last one without what is empty."""
        rest = self.count % ROWS or ROWS
        return [*self.blocks[:-1], *(block[:rest] for block in self.blocks[-1:])]


class Collected:
    """Features by what they are of, each once, in order of arrival."""

    def __init__(self) -> None:
        self.places: dict[Hashable, int] = {}
        self.rows = Grown()

    def add(self, keys: Iterable[Hashable], features: Tensor) -> list[int]:
        """The place of each key; `features` (keys, width) are kept of those that are new."""
        keys, new = list(keys), []
        for number, key in enumerate(keys):
            if key not in self.places:
                self.places[key] = len(self.places)
                new.append(number)
        self.rows.add(features[new])
        return [self.places[key] for key in keys]

    def merge(self, other: Self) -> list[int]:
        """Where what the other has is found here."""
        keys = iter(other.places)
        found = [self.add(itertools.islice(keys, len(block)), block) for block in other.rows.filled()]
        return list(itertools.chain.from_iterable(found))


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
        of_images, of_texts = ranks(self.images.rows.filled(), self.texts.rows.filled(), sorted(self.pairs))
        return {**_summary("i2t", of_images), **_summary("t2i", of_texts)}


def _summary(way: str, found: Tensor) -> dict[str, float]:
    recalls = {f"{way}_recall@{k}": float((found <= k).double().mean()) for k in RECALLS}
    return {**recalls, f"{way}_median_rank": float(found.quantile(0.5))}


def ranks(
    queries: Sequence[Tensor], targets: Sequence[Tensor], pairs: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor]:
    """(queries,) and (targets,) float64: the rank of the nearest right one among the wrong ones, ties counting a half.

    Args:
        queries, targets: blocks of (rows, width), of length 1.
        pairs: which belong together, (query, target), by query.
    """
    cells = list(_cells(queries, targets, torch.tensor(pairs)))
    best = [torch.full((sum(map(len, blocks)),), -torch.inf) for blocks in (queries, targets)]
    ahead = [torch.zeros_like(one, dtype=torch.float64) for one in best]
    for cell in cells:
        if len(cell.query):
            scores = (cell.queries[cell.query] * cell.targets[cell.target]).sum(dim=1)  # (pairs of the cell,)
            best[0][cell.rows].scatter_reduce_(0, cell.query, scores, "amax")
            best[1][cell.columns].scatter_reduce_(0, cell.target, scores, "amax")
    for cell in cells:
        scores = cell.queries @ cell.targets.T  # (rows, columns)
        scores[cell.query, cell.target] = -torch.inf
        room = torch.empty_like(scores)
        ahead[0][cell.rows] += _ahead(scores, best[0][cell.rows, None], 1, room)
        ahead[1][cell.columns] += _ahead(scores, best[1][cell.columns], 0, room)
    return 1 + ahead[0], 1 + ahead[1]


def _ahead(scores: Tensor, best: Tensor, dim: int, room: Tensor) -> Tensor:
    """How many scores are higher than the best right one, those that are as high counting a half."""
    higher = torch.gt(scores, best + SAME, out=room).sum(
        dim
    )  # numbers are summed ten times faster than truths
    return (higher + torch.ge(scores, best - SAME, out=room).sum(dim)).double() / 2


@dataclass(frozen=True)
class _Cell:
    """A block of queries with one of targets: `query` and `target` (pairs,) say which in them belong together."""

    queries: Tensor
    targets: Tensor
    rows: slice
    columns: slice
    query: Tensor
    target: Tensor


def _cells(queries: Sequence[Tensor], targets: Sequence[Tensor], right: Tensor) -> Iterator[_Cell]:
    across = list(_places(targets))
    for block, rows in zip(queries, _places(queries), strict=True):
        bounds = torch.searchsorted(right[:, 0].contiguous(), torch.tensor([rows.start, rows.stop]))
        query, target = right[bounds[0] : bounds[1]].unbind(dim=1)
        for other, columns in zip(targets, across, strict=True):
            here = (target >= columns.start) & (target < columns.stop)
            yield _Cell(block, other, rows, columns, query[here] - rows.start, target[here] - columns.start)


def _places(blocks: Sequence[Tensor]) -> Iterator[slice]:
    start = 0
    for block in blocks:
        yield slice(start, start + len(block))
        start += len(block)


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
        self.images = Grown()

    def update(self, scored: Scored) -> None:
        batch, outputs = scored.batch, scored.loss.outputs
        self.rows += len(batch["row_id"])
        if "class_embeds" not in outputs:
            return
        self.classes.add(batch["classes"], _kept(outputs["class_embeds"]))
        labelled = [place for place, label in enumerate(batch["labels"]) if label is not None]
        self.labels += [batch["labels"][place] for place in labelled]
        self.images.add(_kept(outputs["image_embeds"])[labelled])

    def merge(self, other: Self) -> None:
        self.classes.merge(other.classes)
        self.rows += other.rows
        self.labels += other.labels
        for block in other.images.filled():
            self.images.add(block)

    def compute(self) -> dict[str, float]:
        if not self.labels:
            return {} if self.rows else {"zero_shot_accuracy": float("nan")}
        right = [(place, self.classes.places[label]) for place, label in enumerate(self.labels)]
        found, _ = ranks(self.images.filled(), self.classes.rows.filled(), right)
        return {"zero_shot_accuracy": float((found == 1).double().mean())}


def pixel_keys(pixels: Tensor) -> list[bytes]:
    """What tells images apart: a hash of what the model sees of each."""
    return [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in pixels.cpu()]


def _kept(features: Any) -> Tensor:
    kept: Tensor = features.detach().float().cpu()
    return kept
