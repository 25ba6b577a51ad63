"""Whisper: speech recognition and translation, from audio files with transcripts.

Rows need `audio` (a file, its bytes, or samples) and `text`; a column `language` may say what each is spoken in, and
`start` and `end` (seconds) which part of a long file it is. A column `segments`, a list of `{"start", "end", "text"}`,
makes as many rows of one long file.
The metrics are `wer` and `cer`, normalised as Whisper's authors do, `wer_raw` and `cer_raw`. The settings are
`WhisperSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit import Batch, Column, Loss, Metric, Recipe, Row, Scored, Stage, hookimpl
from toolkit_whisper.settings import WhisperSettings as WhisperSettings
from toolkit_whisper.settings import faults


@hookimpl
def toolkit_settings() -> type:
    return WhisperSettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    return faults(recipe.settings(WhisperSettings), recipe.adapter)


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    files = ("path", "file_name", "file", "audio_path", "audio_filepath")
    texts = ("sentence", "transcription", "transcript", "normalized_text", "raw_transcription")
    language = Column("language", usual=("lang", "locale"), required=False)
    part = [Column("start", required=False), Column("end", required=False)]
    parts = Column("segments", required=False, holds_rows=True)
    return [
        Column("audio", usual=files, names_file=True),
        Column("text", usual=texts),
        language,
        *part,
        parts,
    ]


@hookimpl
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]]:
    from toolkit_whisper.model import load

    return lambda: load(recipe.model, recipe.settings(WhisperSettings))


@hookimpl
def toolkit_given(recipe: Recipe, model: Any, processor: Any) -> None:
    from toolkit_whisper.model import fit_given

    fit_given(model, processor, recipe.settings(WhisperSettings))


@hookimpl
def toolkit_frozen_stages(model: Any) -> Sequence[Stage]:
    from toolkit import unwrapped

    return [Stage("encoder", unwrapped(model).get_encoder(), outputs=("last_hidden_state",))]


@hookimpl
def toolkit_inspect(recipe: Recipe, processor: Any) -> Callable[[Row], Mapping[str, float | str]]:
    from toolkit_whisper.inspect_ import Inspect

    return Inspect(processor, recipe.settings(WhisperSettings).audio_window)


@hookimpl
def toolkit_row_length() -> Callable[[Row], float]:
    from toolkit_whisper.inspect_ import seconds

    return seconds


@hookimpl
def toolkit_prepare(recipe: Recipe, processor: Any) -> Callable[[Row], Row]:
    from toolkit_whisper.prepare import Prepare

    return Prepare(processor, recipe.settings(WhisperSettings).audio_window)


@hookimpl
def toolkit_show(processor: Any) -> Callable[[Row], str]:
    from toolkit_whisper.inspect_ import Show

    return Show(processor)


@hookimpl
def toolkit_augment(recipe: Recipe) -> Callable[[Row, Any], Row] | None:
    from toolkit_whisper.augment import Augment, changes_anything

    settings = recipe.settings(WhisperSettings)
    return Augment(settings) if changes_anything(settings) else None


@hookimpl
def toolkit_collator(recipe: Recipe, processor: Any) -> Callable[[list[Row]], Batch]:
    from toolkit_whisper.collate import Collator

    return Collator(processor, recipe.settings(WhisperSettings))


@hookimpl
def toolkit_loss() -> Callable[[Any, Batch], Loss]:
    from toolkit_whisper.loss import summed_cross_entropy

    return summed_cross_entropy


@hookimpl
def toolkit_evaluate_batch(recipe: Recipe, processor: Any) -> Callable[[Any, Batch], Scored]:
    from toolkit_whisper.scoring import Evaluate

    return Evaluate(processor, recipe.settings(WhisperSettings))


@hookimpl
def toolkit_metrics(recipe: Recipe, processor: Any) -> Sequence[Metric]:
    from toolkit_whisper.features import FULL, window_of
    from toolkit_whisper.metrics import ErrorRates, FullWindowErrorRate, Normalise

    normalise = Normalise(processor.tokenizer)
    short = window_of(processor.feature_extractor, recipe.settings(WhisperSettings).audio_window) != FULL
    return [ErrorRates(normalise), *([FullWindowErrorRate(normalise)] if short else [])]


@hookimpl
def toolkit_predict(recipe: Recipe, model: Any, processor: Any) -> Callable[[list[str]], list[str]]:
    from toolkit_whisper.predict import Transcriber

    return Transcriber(model, processor, recipe.settings(WhisperSettings))
