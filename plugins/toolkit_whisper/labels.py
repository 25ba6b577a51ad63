"""What the decoder is asked with and what it shall answer, in tokens."""

from __future__ import annotations

import difflib
from typing import Any

from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from toolkit import DataError, RecipeError
from toolkit_whisper.settings import WhisperSettings

START, NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of the smallest multilingual model, by which OpenAI's own code tells them from English-only ones."""


def language_code(language: str) -> str:
    """The code of a language that Whisper was trained on, by its code or English name.

    >>> language_code("Haitian Creole")
    'ht'

    Raises:
        RecipeError: Whisper knows no such language.
    """
    given = language.lower()
    if given in TO_LANGUAGE_CODE.values():
        return given
    if given not in TO_LANGUAGE_CODE:
        near = difflib.get_close_matches(given, TO_LANGUAGE_CODE, n=1)
        raise RecipeError(
            f"whisper.language: '{language}' is no language of Whisper's",
            hint=f"did you mean '{near[0]}'?" if near else "give a name or a code, such as german or de",
        )
    return str(TO_LANGUAGE_CODE[given])


def is_multilingual(model: Any) -> bool:
    """As its generation settings state; older ones do not, then by the size of its vocabulary."""
    stated = getattr(model.generation_config, "is_multilingual", None)
    return model.config.vocab_size >= MULTILINGUAL_VOCABULARY if stated is None else bool(stated)


def set_prompt(tokenizer: Any, model: Any, settings: WhisperSettings) -> None:
    """Tell the tokenizer what stands before each transcript, and how many tokens the decoder takes.

    It is saved with the model, so whoever loads it makes the same labels:
    `<|startoftranscript|> <|notimestamps|>` for English-only models, and for multilingual ones
    `<|startoftranscript|> <|de|> <|transcribe|> <|notimestamps|>`.

    Raises:
        RecipeError: the model needs a language, or cannot do what the settings ask for.
    """
    code = _language(settings, is_multilingual(model))
    task = settings.task if code else None
    expected = [START, *([f"<|{code}|>", f"<|{task}|>"] if code else []), NO_TIMESTAMPS]
    tokenizer.language, tokenizer.task, tokenizer.predict_timestamps = code, task, False
    # The tokenizer counts languages from the start token, also those that the model does not have.
    found = tokenizer.convert_ids_to_tokens(tokenizer.prefix_tokens)
    if found != expected and found != [token.replace("<|he|>", "<|iw|>") for token in expected]:
        raise RecipeError(
            f"whisper.language: the model has no tokens {' '.join(expected)} where Whisper has them",
            hint="choose another language, or a model that knows this one",
        )
    tokenizer.set_prefix_tokens()
    tokenizer.model_max_length = model.config.max_target_positions


def labels_of(text: Any, tokenizer: Any) -> list[int]:
    """The tokens that the decoder shall answer: the prompt less its start, the transcript, `<|endoftext|>`.

    Raises:
        DataError: no transcript, or more tokens than the decoder takes.
    """
    if not isinstance(text, str):
        raise DataError(f"the transcript is no text: {text!r:.60}")
    if not text.strip():
        raise DataError("the transcript is empty")
    labels: list[int] = tokenizer(text, verbose=False).input_ids[1:]
    if len(labels) > tokenizer.model_max_length:
        raise DataError(
            f"the transcript makes {len(labels)} tokens, the decoder takes {tokenizer.model_max_length}",
            hint="cut the recording into pieces, each with its text",
        )
    return labels


def _language(settings: WhisperSettings, multilingual: bool) -> str | None:
    code = language_code(settings.language) if settings.language else None
    if multilingual:
        if code is None:
            raise RecipeError(
                "whisper.language: the model is multilingual and has to be told the language",
                hint="name the language spoken: --set whisper.language=en",
            )
        return code
    if code not in (None, "en"):
        raise RecipeError(
            f"whisper.language: the model is English-only, found '{settings.language}'",
            hint="choose a multilingual model, whose name does not end in .en",
        )
    if settings.task == "translate":
        raise RecipeError(
            "whisper.task: the model is English-only and cannot translate",
            hint="choose a multilingual model, whose name does not end in .en",
        )
    return None
