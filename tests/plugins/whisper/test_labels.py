"""Prompt and labels against transformers' own tokenizer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from toolkit_whisper.labels import (
    is_multilingual,
    known_code,
    language_code,
    language_of,
    prompt_for,
    set_prompt,
)
from toolkit_whisper.labels import labels_of as labels_after
from toolkit_whisper.settings import WhisperSettings
from transformers import GenerationConfig, WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from toolkit import DataError, RecipeError

START = "<|startoftranscript|>"


def labels_of(text: Any, tokenizer: Any) -> list[int]:
    """With the prompt of the settings."""
    return labels_after(text, tokenizer, prompt_for(tokenizer.language or "en", tokenizer))


def tokens(tokenizer: Any, labels: list[int]) -> list[str]:
    return [tokenizer.decode([label]) for label in labels]


def test_labels_of_an_english_only_model(english: Any) -> None:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    labels = labels_of("Hi", processor.tokenizer)
    assert tokens(processor.tokenizer, labels) == ["<|notimestamps|>", "H", "i", "<|endoftext|>"]


def test_labels_of_a_multilingual_model(multilingual: Any) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings(language="German", task="translate"))
    labels = labels_of("Hi", processor.tokenizer)
    prompt = ["<|de|>", "<|translate|>", "<|notimestamps|>"]
    assert tokens(processor.tokenizer, labels) == [*prompt, "H", "i", "<|endoftext|>"]


@pytest.mark.parametrize("language", ["en", "Welsh", "yue"])
@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_labels_are_what_transformers_makes_for_language_and_task(
    multilingual: Any, tmp_path: Path, language: str, task: Any
) -> None:
    model, processor = multilingual
    processor.tokenizer.save_pretrained(tmp_path)
    theirs = WhisperTokenizer.from_pretrained(tmp_path, language=language, task=task)
    set_prompt(processor.tokenizer, model, WhisperSettings(language, task))
    for text in ("Hello, world!", " Grüße ", "日本", "a\nb"):
        start, *expected = theirs(text).input_ids
        assert labels_of(text, processor.tokenizer) == expected
        assert start == model.config.decoder_start_token_id


def test_the_prompt_outlives_saving_and_pickling(multilingual: Any, tmp_path: Path) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings("de"))
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    expected = processor.tokenizer("Hi").input_ids
    assert again.tokenizer("Hi").input_ids == expected
    assert again.tokenizer.model_max_length == model.config.max_target_positions
    assert pickle.loads(pickle.dumps(processor.tokenizer))("Hi").input_ids == expected


def test_an_english_only_model_forgets_a_language_that_its_tokenizer_was_saved_with(english: Any) -> None:
    model, processor = english
    processor.tokenizer.set_prefix_tokens(language="en", task="transcribe")
    set_prompt(processor.tokenizer, model, WhisperSettings("english"))
    assert tokens(processor.tokenizer, labels_of("a", processor.tokenizer))[0] == "<|notimestamps|>"


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("multilingual", WhisperSettings("klingon"), "'klingon' is no language of Whisper's"),
        ("english", WhisperSettings("de"), "whisper.language: the model is English-only, found 'de'"),
        ("english", WhisperSettings("en", "translate"), "whisper.task: the model is English-only"),
    ],
)
def test_settings_the_model_cannot_serve(kind: str, settings: Any, message: str, request: Any) -> None:
    model, processor = request.getfixturevalue(kind)
    with pytest.raises(RecipeError) as caught:
        set_prompt(processor.tokenizer, model, settings)
    assert message in caught.value.message
    assert caught.value.hint


def test_a_language_newer_than_the_tokenizer_is_refused(nano: Any) -> None:
    """The tokenizer would take `<|translate|>` for Cantonese, which comes last in the list of languages."""
    model, processor = nano(list(LANGUAGES)[:-1], multilingual=True)
    with pytest.raises(RecipeError, match=r"no tokens .*<\|yue\|>"):
        set_prompt(processor.tokenizer, model, WhisperSettings("cantonese"))


def test_hebrew_by_its_old_code(nano: Any) -> None:
    model, processor = nano(["iw" if code == "he" else code for code in LANGUAGES], multilingual=True)
    set_prompt(processor.tokenizer, model, WhisperSettings("hebrew"))
    assert tokens(processor.tokenizer, labels_of("a", processor.tokenizer))[0] == "<|iw|>"


def test_languages_by_name_and_code() -> None:
    assert language_code("EN") == "en"
    assert language_code("Castilian") == "es"
    assert [known_code(one) for one in ("en-US", "pt_BR", "zh-Hant-TW", "YUE-hk", "nb_NO", " haw ")] == [
        "en", "pt", "zh", "yue", "no", "haw",
    ]  # fmt: skip
    assert known_code("") is known_code("-") is known_code("tlh-KX") is None
    with pytest.raises(RecipeError) as caught:
        language_code("germen")
    assert caught.value.hint == "did you mean 'german'?"


def test_models_that_do_not_say_whether_they_are_multilingual(english: Any) -> None:
    model, _ = english
    model.generation_config = GenerationConfig()
    assert not is_multilingual(model)
    model.config.vocab_size = 51_864
    assert not is_multilingual(model)
    model.config.vocab_size = 51_865
    assert is_multilingual(model)


@pytest.mark.parametrize(
    ("text", "reason"), [("", "is empty"), (" \n", "is empty"), (None, "no text: None"), (7, "7")]
)
def test_rows_without_a_transcript(english: Any, text: Any, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        labels_of(text, english[1].tokenizer)


def test_no_more_labels_than_the_decoder_takes(english: Any) -> None:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    assert len(labels_of("a" * 38, processor.tokenizer)) == model.config.max_target_positions == 40
    with pytest.raises(DataError, match="makes 41 tokens, the decoder takes 40"):
        labels_of("a" * 39, processor.tokenizer)


def test_a_row_says_its_language_or_the_settings_do(multilingual: Any) -> None:
    model, processor = multilingual
    tokenizer = processor.tokenizer
    set_prompt(tokenizer, model, WhisperSettings("de", "translate"))
    rows: list[Any] = [
        {"language": "pt_BR"},
        {"language": "French"},
        {"language": " "},
        {"language": None},
        {},
    ]
    codes = [language_of(row, tokenizer) for row in rows]
    assert codes == ["pt", "fr", "de", "de", "de"]
    prompts = [tokens(tokenizer, prompt_for(code, tokenizer)) for code in codes[:2]]
    rest = ["<|translate|>", "<|notimestamps|>"]
    assert prompts == [[START, "<|pt|>", *rest], [START, "<|fr|>", *rest]]
    assert prompt_for("de", tokenizer) == tokenizer.prefix_tokens


def test_rows_of_unusable_languages(multilingual: Any, english: Any) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings())
    bad: dict[Any, str] = {
        "germen": "'germen' is no language of Whisper's",
        3: "the language is no text: 3",
        "": "does not say",
    }
    for language, reason in bad.items():
        with pytest.raises(DataError, match=reason) as caught:
            language_of({"language": language}, processor.tokenizer)
        assert caught.value.hint
    set_prompt(english[1].tokenizer, english[0], WhisperSettings())
    assert language_of({"language": "en_GB"}, english[1].tokenizer) == "en"
    with pytest.raises(DataError, match="English-only, the row's language is 'de'"):
        language_of({"language": "de"}, english[1].tokenizer)


def test_a_multilingual_model_is_told_the_language_somewhere(multilingual: Any) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings())
    with pytest.raises(RecipeError, match=r"whisper\.language: the model is multilingual"):
        language_of({"text": "a"}, processor.tokenizer)


def test_a_row_in_a_language_that_the_model_lacks(nano: Any) -> None:
    model, processor = nano(list(LANGUAGES)[:-1], multilingual=True)
    set_prompt(processor.tokenizer, model, WhisperSettings())
    with pytest.raises(DataError, match=r"no token <\|yue\|>"):
        prompt_for("yue", processor.tokenizer)
