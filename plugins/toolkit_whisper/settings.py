"""The plugin's section of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolkit import RecipeError


@dataclass(frozen=True)
class WhisperSettings:
    """What to make of the speech, and what to change about it in training so that more is learnt from it.

    Attributes:
        language: name, code or locale of the language spoken, for rows whose column `language` does not say it;
            English-only models need none.
        task: `transcribe`, or `translate` into English (multilingual models only).
        max_new_tokens: most tokens of a generated text; by default as many as the decoder has room for, in a short
            window its share.
        num_beams: texts that are followed up at once, in evaluation and prediction; 1 takes the likeliest token.
        audio_window: how much the encoder reads: `full`, the model's own window; `fit`, the clip with half a second of
            silence or more, to a whole second; or so many seconds. By default what the model was trained with.
        speed: clips are played faster or slower by up to this share, in hundredths: 0.1 is from 0.9 to 1.1 times.
        noise_snr_db: lowest and highest signal-to-noise ratio of the white noise added, in dB; null adds none.
        time_masks, time_mask_seconds: SpecAugment: how many stretches of time are masked, and how long at most.
        frequency_masks, frequency_mask_bands: the same for runs of mel bands.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    max_new_tokens: int | None = None
    num_beams: int = 1
    audio_window: Literal["full", "fit"] | float | None = None
    speed: float = 0.0
    noise_snr_db: tuple[float, float] | None = None
    time_masks: int = 0
    time_mask_seconds: float = 1.0
    frequency_masks: int = 0
    frequency_mask_bands: int = 27


def faults(settings: WhisperSettings, adapter: Mapping[str, Any] | None) -> list[RecipeError]:
    """What can be known to be wrong without the model; its languages are checked as it is loaded."""
    found = _out_of_range(settings)
    if adapter and adapter.get("task_type") is not None:
        # PEFT's task classes pass on `input_ids`, which Whisper's forward takes for the decoder's.
        found.append(
            RecipeError(
                f"adapter.task_type: '{adapter['task_type']}' is for models of text; Whisper takes sound",
                hint="leave adapter.task_type out",
            )
        )
    return found


LOUDEST_SNR_DB = 100
MOST_MASKS = 100

_LEAST = {
    "max_new_tokens": 1,
    "num_beams": 1,
    "time_masks": 0,
    "frequency_masks": 0,
    "frequency_mask_bands": 1,
}


def _out_of_range(settings: WhisperSettings) -> list[RecipeError]:
    found = [
        _fault(name, f"must be at least {bound}, found {value}", "leave it out for the default")
        for name, bound in _LEAST.items()
        if (value := getattr(settings, name)) is not None and value < bound
    ]
    found += [
        _fault(name, f"must be at most {MOST_MASKS}, found {value}", "2 of each are usual")
        for name in ("time_masks", "frequency_masks")
        if (value := getattr(settings, name)) > MOST_MASKS
    ]
    if settings.speed and not 0.01 <= settings.speed <= 0.5:
        what = f"must be 0, or from 0.01 to 0.5, found {settings.speed:g}"
        found.append(_fault("speed", what, "0.1 plays clips at 0.9 to 1.1 times their speed"))
    if isinstance(settings.audio_window, float | int) and not settings.audio_window >= 1:
        what = f"must be at least 1 s, found {settings.audio_window:g}"
        found.append(_fault("audio_window", what, "`fit` is as long as each clip asks for"))
    if not 0 < settings.time_mask_seconds < math.inf:
        what = f"must be more than 0, and finite, found {settings.time_mask_seconds:g}"
        found.append(_fault("time_mask_seconds", what, "to mask no time, leave whisper.time_masks out"))
    low, high = settings.noise_snr_db or (0, 0)
    if not all(abs(bound) <= LOUDEST_SNR_DB for bound in (low, high)):
        what = f"must be from -{LOUDEST_SNR_DB} to {LOUDEST_SNR_DB}, found [{low:g}, {high:g}]"
        found.append(_fault("noise_snr_db", what, "[10, 30] is from a street to a quiet room"))
    elif low > high:
        what = f"must be the least, then the most, found [{low:g}, {high:g}]"
        found.append(_fault("noise_snr_db", what, f"write [{high:g}, {low:g}]"))
    return found


def _fault(name: str, what: str, hint: str) -> RecipeError:
    return RecipeError(f"whisper.{name}: {what}", hint)
