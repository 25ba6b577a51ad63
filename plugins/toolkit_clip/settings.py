"""The plugin's section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolkit import RecipeError


@dataclass(frozen=True)
class ClipSettings:
    """How images and captions are compared, and what is changed about the images in training.

    Attributes:
        loss: `infonce` or `siglip`; by default the one that the model was made for.
        micro_batch_size: rows whose activations are held at once; by default the whole batch. It changes the memory
            that a step takes, not its result.
        trained: without an adapter, what of the model trains: `image` and `text` are the towers with their
            projections, `projections` the last layer of each. The temperature always trains.
        min_crop: least share of an image's area that a random crop keeps; 1 crops nothing.
        flip: how likely an image is mirrored; leave it at 0 where captions say left and right, or there is writing.
        colour: by how much brightness, contrast and saturation may change: 0.2 is from 0.8 to 1.2 times.
        label_template: what a label is called in a caption, for `zero_shot_accuracy`.
    """

    loss: Literal["infonce", "siglip"] | None = None
    micro_batch_size: int | None = None
    trained: Literal["all", "image", "text", "projections"] = "all"
    min_crop: float = 1.0
    flip: float = 0.0
    colour: float = 0.0
    label_template: str = "a photo of a {label}."


def faults(settings: ClipSettings, adapter: Mapping[str, Any] | None) -> list[RecipeError]:
    """What can be known to be wrong without the model."""
    found = _out_of_range(settings)
    if settings.trained != "all" and adapter is not None:
        found.append(
            RecipeError(
                f"clip.trained: '{settings.trained}', but the recipe's adapter decides what trains",
                hint="set adapter: null, or name the tower's modules: "
                "adapter.target_modules: ['vision_model.encoder.layers.*.self_attn.q_proj']",
            )
        )
    if adapter and adapter.get("task_type") is not None:
        found.append(
            RecipeError(
                f"adapter.task_type: '{adapter['task_type']}' is for models of text; CLIP takes images too",
                hint="leave adapter.task_type out",
            )
        )
    if "{label}" not in settings.label_template:
        found.append(
            RecipeError(
                f"clip.label_template: '{settings.label_template}' has no {{label}} in it",
                hint="such as 'a photo of a {label}.'",
            )
        )
    return found


def _out_of_range(settings: ClipSettings) -> list[RecipeError]:
    found = []
    size = settings.micro_batch_size
    if size is not None and size < 1:
        found.append(
            RecipeError(
                f"clip.micro_batch_size: must be at least 1, found {size}",
                hint="leave it out for the whole batch",
            )
        )
    if not 0 < settings.min_crop <= 1:
        found.append(
            RecipeError(
                f"clip.min_crop: must be more than 0 and at most 1, found {settings.min_crop:g}",
                hint="1 crops nothing",
            )
        )
    for name in ("flip", "colour"):
        if not 0 <= (value := getattr(settings, name)) <= 1:
            found.append(
                RecipeError(f"clip.{name}: must be from 0 to 1, found {value:g}", hint="0 changes nothing")
            )
    return found
