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
        language: name or code of the language spoken; multilingual models need it, English-only ones do not.
        task: `transcribe`, or `translate` into English (multilingual models only).
        max_new_tokens: most tokens of a generated text; by default as many as the decoder has room for.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    max_new_tokens: int | None = None


def faults(settings: WhisperSettings, adapter: Mapping[str, Any] | None) -> list[RecipeError]:
    """What can be known to be wrong without the model; its languages are checked as it is loaded."""
    found, most = [], settings.max_new_tokens
    if most is not None and most < 1:
        found.append(RecipeError(f"whisper.max_new_tokens: must be at least 1, found {most}"))
    if adapter and adapter.get("task_type") is not None:
        # PEFT's task classes pass on `input_ids`, which Whisper's forward takes for the decoder's.
        found.append(
            RecipeError(
                f"adapter.task_type: '{adapter['task_type']}' is for models of text; Whisper takes sound",
                hint="leave adapter.task_type out",
            )
        )
    return found
