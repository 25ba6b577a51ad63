"""What trains and what it is given. In shapes: B = batch, C = classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from toolkit import Batch, Loss, Row, Scored, load_model, load_processor
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from toolkit_audio_classify.audio import load as load_audio


def load(spec: Any, classes: Sequence[str]) -> tuple[Any, Any]:
    """The model, with an output for each class, and its feature extractor.

    A model that was trained on other classes gets a new last layer.

    Raises:
        ModelError: it cannot be loaded, or classifies no audio.
    """
    labels = {"id2label": dict(enumerate(classes)), "label2id": {name: i for i, name in enumerate(classes)}}
    model = load_model(spec, AutoModelForAudioClassification, ignore_mismatched_sizes=True, **labels)
    return model, load_processor(spec, AutoFeatureExtractor)


def features_of(clips: Sequence[Tensor], processor: Any) -> Tensor:
    """What the model hears of clips of one length: (B, frames, bands) float32, or (B, samples) of a Wav2Vec2.

    Where all clips are equally long, nothing is padding: so no model needs an attention mask, and what a row gives
    does not depend on the rows beside it.
    """
    sounds = [clip.numpy() for clip in clips]
    made = processor(sounds, sampling_rate=processor.sampling_rate, return_tensors="pt")
    features: Tensor = made[processor.model_input_names[0]]
    return features


class Collator:
    """Prepared rows as one batch."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Turn the sounds into features and stack them.

        Returns:
            `features` (B, frames, bands) float32, what the model's feature extractor makes of the sounds; `labels`
            (B,) int64, numbers of classes; `num_targets`, which is B; `row_id` (B,) int64.
        """
        return {
            "features": features_of([row["audio"] for row in rows], self.processor),
            "labels": torch.tensor([row["label"] for row in rows]),
            "num_targets": len(rows),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
        }


def classification_loss(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the clips: the core divides, once, by all targets of a step."""
    logits = model(batch["features"]).logits  # (B, C)
    total = cross_entropy(logits, batch["labels"], reduction="sum")
    return Loss(total, count=batch["num_targets"], outputs=logits)


class Evaluate:
    """`(model, batch) -> Scored`: the loss, and the names of the classes predicted and true."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def __call__(self, model: Any, batch: Batch) -> Scored:
        loss = classification_loss(model, batch)
        predicted, true = loss.outputs.argmax(-1).tolist(), batch["labels"].tolist()
        return Scored(loss, batch, [self.classes[i] for i in predicted], [self.classes[i] for i in true])


class Predict:
    """`(files) -> names`: for `toolkit predict`, the class of each recording."""

    def __init__(self, model: Any, processor: Any, classes: Sequence[str], seconds: float) -> None:
        self.model, self.processor, self.classes, self.seconds = model, processor, classes, seconds

    def __call__(self, files: list[str]) -> list[str]:
        return [self.class_of(file) for file in files]

    @torch.inference_mode()
    def class_of(self, file: str) -> str:
        clip = load_audio(file, self.processor.sampling_rate, self.seconds)
        features = features_of([clip], self.processor).to(self.model.device, self.model.dtype)
        return self.classes[int(self.model(features).logits.argmax())]
