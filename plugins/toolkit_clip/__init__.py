"""CLIP and SigLIP: images and captions that find one another, from image files with captions.

Rows need `image` (a file, its bytes, or a `PIL.Image.Image`) and `caption`: a text, or a list of texts; rows with the
same image may be repeated. A column `label` gives `zero_shot_accuracy`. The metrics are `i2t_recall@1|5|10`,
`t2i_recall@1|5|10`, `i2t_median_rank` and `t2i_median_rank`. The settings are `ClipSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit import Batch, Column, Loss, Metric, Recipe, Row, Scored, Stage, hookimpl
from toolkit_clip.settings import ClipSettings as ClipSettings
from toolkit_clip.settings import faults


@hookimpl
def toolkit_settings() -> type:
    return ClipSettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    return faults(recipe.settings(ClipSettings), recipe.adapter)


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    files = ("file_name", "path", "file", "image_path", "filepath", "img", "picture", "jpg", "png")
    texts = ("captions", "text", "texts", "sentence", "sentences", "alt_text", "description", "title", "txt")
    label = Column("label", usual=("class", "class_name", "category"), required=False)
    return [
        Column("image", usual=files, keeps_together=True, names_file=True),
        Column("caption", usual=texts),
        label,
    ]


@hookimpl
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]]:
    from toolkit_clip.model import load

    return lambda: load(recipe.model, recipe.settings(ClipSettings))


@hookimpl
def toolkit_given(recipe: Recipe, model: Any, processor: Any) -> None:
    from toolkit_clip.model import fit_given

    fit_given(model, processor, recipe.settings(ClipSettings))


@hookimpl
def toolkit_frozen_stages(model: Any) -> Sequence[Stage]:
    from toolkit import unwrapped

    clip = unwrapped(model)
    return [
        Stage("image tower", clip.vision_model, outputs=("pooler_output",)),
        Stage("text tower", clip.text_model, outputs=("pooler_output",)),
    ]


@hookimpl
def toolkit_inspect(processor: Any) -> Callable[[Row], Mapping[str, float | str]]:
    from toolkit_clip.inspect_ import Inspect

    return Inspect(processor)


@hookimpl
def toolkit_prepare(recipe: Recipe, processor: Any) -> Callable[[Row], Row]:
    from toolkit_clip.prepare import Prepare

    return Prepare(recipe, processor)


@hookimpl
def toolkit_show(processor: Any) -> Callable[[Row], str]:
    from toolkit_clip.inspect_ import Show

    return Show(processor)


@hookimpl
def toolkit_augment(recipe: Recipe) -> Callable[[Row, Any], Row]:
    from toolkit_clip.augment import Augment

    return Augment(recipe.settings(ClipSettings))


@hookimpl
def toolkit_collator(recipe: Recipe, processor: Any) -> Callable[[list[Row]], Batch]:
    from toolkit_clip.collate import Collator

    return Collator(processor, recipe.settings(ClipSettings))


@hookimpl
def toolkit_loss(recipe: Recipe) -> Callable[[Any, Batch], Loss]:
    from toolkit_clip.loss import BatchLoss

    return BatchLoss(recipe.settings(ClipSettings))


@hookimpl
def toolkit_step(recipe: Recipe) -> Callable[[Any, Batch, Callable[[Any], None]], Loss]:
    from toolkit_clip.step import Step

    return Step(recipe.settings(ClipSettings))


@hookimpl
def toolkit_evaluate_batch(recipe: Recipe) -> Callable[[Any, Batch], Scored]:
    from toolkit_clip.scoring import Evaluate

    return Evaluate(recipe.settings(ClipSettings))


@hookimpl
def toolkit_metrics() -> Sequence[Metric]:
    from toolkit_clip.metrics import Retrieval, ZeroShot

    return [Retrieval(), ZeroShot()]


@hookimpl
def toolkit_callbacks() -> Sequence[Any]:
    from toolkit_clip.temperature import Temperature

    return [Temperature()]


@hookimpl
def toolkit_predict(model: Any, processor: Any) -> Callable[[list[str]], Mapping[str, Any]]:
    from toolkit_clip.predict import Matcher

    return Matcher(model, processor)
