"""The plugin's section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolkit import RecipeError


@dataclass(frozen=True)
class WhisperSettings:
    """What to make of the speech.

    Attributes:
        language: name, code or locale of the language spoken, for rows whose column `language` does not say it;
            English-only models need none.
        task: `transcribe`, or `translate` into English (multilingual models only).
        max_new_tokens: most tokens of a generated text; by default as many as the decoder has room for.
        num_beams: texts that are followed up at once, in evaluation and prediction; 1 takes the likeliest token.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    max_new_tokens: int | None = None
    num_beams: int = 1


def faults(settings: WhisperSettings, adapter: Mapping[str, Any] | None) -> list[RecipeError]:
    """What can be known to be wrong without the model; its languages are checked as it is loaded."""
    found, most = [], settings.max_new_tokens
    if most is not None and most < 1:
        found.append(RecipeError(f"whisper.max_new_tokens: must be at least 1, found {most}"))
    if settings.num_beams < 1:
        found.append(RecipeError(f"whisper.num_beams: must be at least 1, found {settings.num_beams}"))
    if adapter and adapter.get("task_type") is not None:
        # PEFT's task classes pass on `input_ids`, which Whisper's forward takes for the decoder's.
        found.append(
            RecipeError(
                f"adapter.task_type: '{adapter['task_type']}' is for models of text; Whisper takes sound",
                hint="leave adapter.task_type out",
            )
        )
    return found
