"""Audio classification: a short recording in, one of the recipe's classes out.

Rows need `audio` (a file, its bytes, or samples with their rate) and `label`, the name of a class. Metrics: `accuracy`
and `macro_f1`. Only the hooks stand here: what needs torch is in other modules, which they import when they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import Batch, Column, Loss, Metric, Recipe, RecipeError, Row, Scored, hookimpl

toolkit_contract = 1

LEAST_SECONDS = 0.1
SOUNDS = "audio-classify:sounds"
"""The `data.source` that stands for the sounds of `toolkit_audio_classify.sounds`."""


@dataclass(frozen=True)
class AudioClassifySettings:
    """The section `audio-classify` of a recipe.

    Attributes:
        classes: their names, in the order of the model's outputs.
        seconds: how much of a recording is heard, from its start; silence is added to shorter ones.
    """

    classes: tuple[str, ...] = ()
    seconds: float = 1.0


@hookimpl
def toolkit_settings() -> type:
    return AudioClassifySettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    settings = recipe.settings(AudioClassifySettings)
    faults = []
    if not len(set(settings.classes)) == len(settings.classes) >= 2:
        hint = "for example --set audio-classify.classes='[dog, rain]'"
        faults.append(RecipeError("audio-classify.classes: expected two different names or more", hint))
    if settings.seconds < LEAST_SECONDS:
        what = f"audio-classify.seconds: must be at least {LEAST_SECONDS:g}, found {settings.seconds:g}"
        faults.append(RecipeError(what, hint="it is the length that all recordings are brought to"))
    return faults


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    files = ("file_name", "path", "file", "audio_path", "audio_filepath")
    return [
        Column("audio", usual=files, names_file=True),
        Column("label", usual=("class", "class_name", "category", "keyword")),
    ]


@hookimpl
def toolkit_dataset(recipe: Recipe) -> Callable[[], Mapping[str, Any]] | None:
    if recipe.data.source != SOUNDS:
        return None
    from toolkit_audio_classify.sounds import splits

    return splits


@hookimpl
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]]:
    from toolkit_audio_classify.model import load

    return lambda: load(recipe.model, recipe.settings(AudioClassifySettings).classes)


@hookimpl
def toolkit_inspect(recipe: Recipe) -> Callable[[Row], Mapping[str, float | str]]:
    from toolkit_audio_classify.rows import Inspect

    return Inspect(recipe.settings(AudioClassifySettings).classes)


@hookimpl
def toolkit_prepare(recipe: Recipe, processor: Any) -> Callable[[Row], Row]:
    from toolkit_audio_classify.rows import Prepare

    settings = recipe.settings(AudioClassifySettings)
    return Prepare(settings.classes, processor.sampling_rate, settings.seconds)


@hookimpl
def toolkit_collator(processor: Any) -> Callable[[list[Row]], Batch]:
    from toolkit_audio_classify.model import Collator

    return Collator(processor)


@hookimpl
def toolkit_loss() -> Callable[[Any, Batch], Loss]:
    from toolkit_audio_classify.model import classification_loss

    return classification_loss


@hookimpl
def toolkit_evaluate_batch(recipe: Recipe) -> Callable[[Any, Batch], Scored]:
    from toolkit_audio_classify.model import Evaluate

    return Evaluate(recipe.settings(AudioClassifySettings).classes)


@hookimpl
def toolkit_metrics() -> Sequence[Metric]:
    from toolkit_audio_classify.metrics import ClassScores

    return [ClassScores()]


@hookimpl
def toolkit_predict(recipe: Recipe, model: Any, processor: Any) -> Callable[[list[str]], list[str]]:
    from toolkit_audio_classify.model import Predict

    settings = recipe.settings(AudioClassifySettings)
    return Predict(model, processor, settings.classes, settings.seconds)
