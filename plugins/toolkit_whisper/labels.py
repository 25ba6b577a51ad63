"""What the decoder is asked with and what it shall answer, in tokens."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from toolkit import DataError, RecipeError, Row
from toolkit_whisper.settings import WhisperSettings

START, NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"
IGNORED = -100
MOST_CHARACTERS = 100
"""Of a transcript, for each token that the decoder takes: what is longer is not even made tokens of."""
MULTILINGUAL_VOCABULARY = 51_865
"""Tokens of the smallest multilingual model, by which OpenAI's own code tells them from English-only ones."""


_OTHER_CODES = {"cmn": "zh", "fil": "tl", "iw": "he", "jv": "jw", "nb": "no"}
"""Codes that data sets use for what Whisper calls otherwise."""


def known_code(language: str) -> str | None:
    """The code of a language that Whisper was trained on, by its code, English name or locale; else None.

    >>> known_code("Haitian Creole"), known_code("pt_BR"), known_code("tlh")
    ('ht', 'pt', None)
    """
    given = language.strip().lower()
    for name in (given, re.split("[-_]", given)[0]):
        code = _OTHER_CODES.get(name, TO_LANGUAGE_CODE.get(name, name))
        if code in LANGUAGES:
            return str(code)
    return None


def language_code(language: str) -> str:
    """The code of the language that the settings name.

    Raises:
        RecipeError: Whisper knows no such language.
    """
    code = known_code(language)
    if code is None:
        raise RecipeError(f"whisper.language: '{language}' is no language of Whisper's", _nearest(language))
    return code


def language_of(row: Row, tokenizer: Any) -> str:
    """The code of the language that a row is spoken in: what its column says, else what the settings say.

    Raises:
        DataError: the row's language is missing, unknown, or not the model's.
        RecipeError: neither is there such a column, nor do the settings say it.
    """
    given = row.get("language")
    if given is not None and not isinstance(given, str):
        raise _no_language(f"the language is no text: {given!r:.60}", "give names or codes, such as de")
    if not (given or "").strip():
        return _language_of_the_settings(row, tokenizer)
    assert given is not None
    code = known_code(given)
    if code is None:
        raise _no_language(f"'{given}' is no language of Whisper's", _nearest(given))
    if tokenizer.task is None and code != "en":
        raise _no_language(f"the model is English-only, the row's language is '{given}'", _MULTILINGUAL)
    return code


def is_multilingual(model: Any) -> bool:
    """As its generation settings state; older ones do not, then by the size of its vocabulary."""
    stated = getattr(model.generation_config, "is_multilingual", None)
    return model.config.vocab_size >= MULTILINGUAL_VOCABULARY if stated is None else bool(stated)


def set_prompt(tokenizer: Any, model: Any, settings: WhisperSettings) -> None:
    """Tell the tokenizer what stands before each transcript, and how many tokens the decoder takes.

    It is saved with the model, so whoever loads it makes the same labels. A multilingual model whose rows say
    their languages themselves needs none in the settings; `tokenizer.task` is None for English-only models.

    Raises:
        RecipeError: the model cannot do what the settings ask for.
    """
    multilingual = is_multilingual(model)
    code = _language(settings, multilingual)
    task = settings.task if multilingual else None
    expected = [START, *(f"<|{part}|>" for part in (code, task) if part), NO_TIMESTAMPS]
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


def prompt_for(code: str, tokenizer: Any) -> list[int]:
    """What the decoder is asked with for speech in a language, in tokens; of one length for all of a model's.

    `<|startoftranscript|> <|notimestamps|>` for English-only models, and for multilingual ones
    `<|startoftranscript|> <|de|> <|transcribe|> <|notimestamps|>`.

    Raises:
        DataError: the model does not know the language.
    """
    ids = tokenizer.convert_tokens_to_ids
    if tokenizer.task is None:
        return [ids(START), ids(NO_TIMESTAMPS)]
    language = ids(f"<|{code}|>")
    if language == tokenizer.unk_token_id and code == "he":
        language = ids("<|iw|>")
    if language == tokenizer.unk_token_id:
        raise _no_language(
            f"the model has no token <|{code}|>: it does not know this language",
            "take a newer or larger model, or leave these rows out",
        )
    return [ids(START), language, ids(f"<|{tokenizer.task}|>"), ids(NO_TIMESTAMPS)]


def labels_of(text: Any, tokenizer: Any, prompt: Sequence[int]) -> list[int]:
    """The tokens that the decoder shall answer: the prompt less its start, the transcript, `<|endoftext|>`.

    Raises:
        DataError: no transcript, or more tokens than the decoder takes.
    """
    if not isinstance(text, str):
        raise _unusable("no transcript", f"the transcript is no text: {text!r:.60}", _TRANSCRIPT)
    if not text.strip():
        raise _unusable("no transcript", "the transcript is empty", _TRANSCRIPT)
    most = tokenizer.model_max_length
    if len(text) > MOST_CHARACTERS * most:  # to make tokens of it may take all memory
        what = f"the transcript has {len(text):,} characters, the decoder takes {most} tokens"
        raise _unusable(f"over {most} tokens", what, _PIECES)
    if any("\ud800" <= char <= "\udfff" for char in text):
        half = "the transcript holds half a character (a lone surrogate)"
        raise _unusable("no transcript", half, _TRANSCRIPT)
    transcript: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    labels = [*prompt[1:], *transcript, tokenizer.eos_token_id]
    if len(labels) > most:
        what = f"the transcript makes {len(labels)} tokens, the decoder takes {most}"
        raise _unusable(f"over {most} tokens", what, _PIECES, {"label tokens": len(labels)})
    return labels


_TRANSCRIPT = "fill in what is said, or take the row out"
_PIECES = "cut the recording into pieces, each with its text"
_MULTILINGUAL = "choose a multilingual model, whose name does not end in .en"


def _unusable(why: str, what: str, hint: str, facts: Mapping[str, float] = MappingProxyType({})) -> DataError:
    """The error of a row, with its facts for `toolkit_inspect`."""
    error = DataError(what, hint)
    error.facts = {**facts, "usable": f"no: {why}"}
    return error


def _no_language(what: str, hint: str) -> DataError:
    return _unusable("no known language", what, hint)


def _language(settings: WhisperSettings, multilingual: bool) -> str | None:
    code = language_code(settings.language) if settings.language else None
    if multilingual:
        return code
    if code not in (None, "en"):
        raise RecipeError(
            f"whisper.language: the model is English-only, found '{settings.language}'", _MULTILINGUAL
        )
    if settings.task == "translate":
        raise RecipeError("whisper.task: the model is English-only and cannot translate", _MULTILINGUAL)
    return None


def _language_of_the_settings(row: Row, tokenizer: Any) -> str:
    if tokenizer.task is None:
        return "en"
    if tokenizer.language is not None:
        return str(tokenizer.language)
    if "language" in row:
        raise _no_language(
            "the row does not say its language", "whisper.language is used where rows say none"
        )
    raise RecipeError(
        "whisper.language: the model is multilingual and has to be told the language",
        hint="name the language spoken: --set whisper.language=en, or add a column `language` to the data",
    )


def _nearest(language: str) -> str:
    near = difflib.get_close_matches(language.lower(), TO_LANGUAGE_CODE, n=1)
    return f"did you mean '{near[0]}'?" if near else "give a name or a code, such as german or de"
