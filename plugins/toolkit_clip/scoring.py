"""A batch of an evaluation: its loss, its features, and which caption is found for each image."""

from __future__ import annotations

from typing import Any

import torch

from toolkit import Batch, Scored, unwrapped
from toolkit_clip.features import features, text_features
from toolkit_clip.loss import BatchLoss, first_captions
from toolkit_clip.settings import ClipSettings


class Evaluate:
    """`(model, batch) -> Scored`. A prediction is the likeliest caption of the batch; the reference is the row's first.

    What the metrics compare is in the loss's outputs: `image_embeds`, `text_embeds`, and, where rows have labels,
    `class_embeds`, those of the batch's classes.
    """

    def __init__(self, settings: ClipSettings) -> None:
        self.loss = BatchLoss(settings)

    def __call__(self, model: Any, batch: Batch) -> Scored:
        made, clip = features(model, batch), unwrapped(model)
        loss = self.loss.of(made, clip, batch)
        if "class_ids" in batch:
            tokens = {"input_ids": batch["class_ids"]}
            tokens |= {"attention_mask": batch["class_mask"]} if "class_mask" in batch else {}
            loss.outputs["class_embeds"] = text_features(clip, tokens)
        with torch.autocast(made.texts.device.type, enabled=False):
            found = (made.images @ made.texts.T).argmax(dim=1)  # (B,)
        captions = batch["captions"]
        first = first_captions(batch["image_of"])
        return Scored(
            loss,
            batch,
            predictions=[captions[place] for place in found.tolist()],
            references=[captions[place] for place in first.tolist()],
        )
