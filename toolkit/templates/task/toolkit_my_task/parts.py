"""What the hooks hand to the core. In shapes: B = batch, C = classes, H and W = pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from PIL import Image
from toolkit import Batch, DataError, Loss, Metric, Row, Scored, load_model, load_processor
from torch.nn.functional import cross_entropy
from transformers import AutoImageProcessor, AutoModelForImageClassification


def load(spec: Any, classes: Sequence[str]) -> tuple[Any, Any]:
    """The model, with an output for each class, and its image processor.

    A model that was trained on other classes gets a new last layer.

    Raises:
        ModelError: it cannot be loaded, or classifies no images.
    """
    labels = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    model = load_model(
        spec, AutoModelForImageClassification, ignore_mismatched_sizes=True, **labels
    )
    return model, load_processor(spec, AutoImageProcessor)


def open_rgb(source: Any) -> Image.Image:
    """A whole image in RGB.

    Args:
        source: a path; `{"bytes", "path"}`, as sets of the hub have it; or an image.
    Raises:
        DataError: there is no image, or it is damaged.
    """
    try:
        if isinstance(source, Image.Image):
            return source.convert("RGB")
        if isinstance(source, Mapping):
            source = io.BytesIO(source["bytes"]) if source.get("bytes") else source["path"]
        with Image.open(source) as image:
            return image.convert("RGB")
    except Exception as error:  # decoders fail in as many ways as files are broken
        raise DataError(
            f"the image cannot be read: {error}", hint="give PNG, JPEG or WebP"
        ) from error


class Prepare:
    """`(row) -> row`: the image decoded, the label as its class's number."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(classes)}

    def __call__(self, row: Row) -> Row:
        """Decode and look up.

        Raises:
            DataError: the image cannot be read, or the label is no class.
        """
        label = str(row["label"])
        if label not in self.numbers:
            raise DataError(
                f"the label '{label}' is no class",
                hint=f"the classes are: {', '.join(self.numbers)}",
            )
        return {**row, "image": open_rgb(row["image"]), "label": self.numbers[label]}


class Collator:
    """Prepared rows as one batch."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Bring the images to the model's size and stack them.

        Returns:
            `pixel_values` (B, 3, H, W) float32, normalised by the processor; `labels` (B,) int64,
            numbers of classes; `num_targets`, which is B; `row_id` (B,) int64.
        """
        images = [row["image"] for row in rows]
        return {
            "pixel_values": self.processor(images, return_tensors="pt")["pixel_values"],
            "labels": torch.tensor([row["label"] for row in rows]),
            "num_targets": len(rows),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
        }


def classification_loss(model: Any, batch: Batch) -> Loss:
    """Cross-entropy in nats, summed over the images: the core divides by all targets of a step."""
    logits = model(pixel_values=batch["pixel_values"]).logits  # (B, C)
    total = cross_entropy(logits, batch["labels"], reduction="sum")
    return Loss(total, count=batch["num_targets"], outputs=logits)


class Evaluate:
    """`(model, batch) -> Scored`: the loss, and the names of the classes predicted and true."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes

    def __call__(self, model: Any, batch: Batch) -> Scored:
        loss = classification_loss(model, batch)
        predicted, true = loss.outputs.argmax(-1).tolist(), batch["labels"].tolist()
        return Scored(
            loss, batch, [self.classes[i] for i in predicted], [self.classes[i] for i in true]
        )


class Accuracy(Metric):
    """`accuracy`: the fraction of images whose class is predicted.

    >>> accuracy = Accuracy()
    >>> accuracy.add(predictions=["cat", "dog", "dog"], references=["cat", "cat", "dog"])
    >>> accuracy.compute()
    {'accuracy': 0.6666666666666666}
    """

    higher_is_better = True

    def __init__(self) -> None:
        self.right, self.seen = 0, 0

    def update(self, scored: Scored) -> None:
        self.add(scored.predictions, scored.references)

    def add(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        self.right += sum(
            ours == theirs for ours, theirs in zip(predictions, references, strict=True)
        )
        self.seen += len(references)

    def merge(self, other: Self) -> None:
        self.right += other.right
        self.seen += other.seen

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.seen if self.seen else float("nan")}


class Predict:
    """`(files) -> names`: for `toolkit predict`, the class of each image."""

    def __init__(self, model: Any, processor: Any, classes: Sequence[str]) -> None:
        self.model, self.processor, self.classes = model, processor, classes

    def __call__(self, files: list[str]) -> list[str]:
        return [self.class_of(file) for file in files]

    @torch.inference_mode()
    def class_of(self, file: str) -> str:
        pixels = self.processor([open_rgb(file)], return_tensors="pt")["pixel_values"]
        logits = self.model(pixel_values=pixels.to(self.model.device)).logits  # (1, C)
        return self.classes[int(logits.argmax())]
