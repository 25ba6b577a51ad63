"""For speech: word error rates by clip length and by speaker, and recorded noise mixed into what is trained on.

An extension brings no model: it is named beside a plugin that does, `toolkit run --task whisper-asr --plugin extras`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from toolkit import Column, Metric, Recipe, Row, hookimpl

from toolkit_extras.settings import ExtrasSettings as ExtrasSettings
from toolkit_extras.settings import faults, recordings_in

toolkit_contract = 1


@hookimpl
def toolkit_settings() -> type:
    return ExtrasSettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    return faults(recipe.settings(ExtrasSettings))


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    usual = ("speaker_id", "client_id", "speaker_name", "spk")
    names = [Column("speaker", usual=usual, required=False, in_batch=True)]
    return [*names, Column("seconds", required=False, in_batch=True)]  # which the Whisper plugin measures


@hookimpl
def toolkit_augment(recipe: Recipe) -> Callable[[Row, Any], Row] | None:
    settings = recipe.settings(ExtrasSettings)
    if settings.noise is None:
        return None
    from toolkit_extras.noise import MixNoise

    return MixNoise(recordings_in(settings.noise), settings.snr_db)


@hookimpl
def toolkit_metrics(recipe: Recipe, processor: Any) -> Sequence[Metric] | None:
    if "whisper" not in {name.rpartition(":")[2] for name in recipe.plugins}:  # others give no transcripts
        return None
    from toolkit_extras.error_rates import ErrorRatesByGroup, Normalise

    return [ErrorRatesByGroup(Normalise(processor.tokenizer), recipe.settings(ExtrasSettings))]
