"""Evaluation of a batch, and generation against transformers' own."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from toolkit_whisper.collate import Collator
from toolkit_whisper.labels import labels_of, prompt_for, set_prompt
from toolkit_whisper.loss import summed_cross_entropy
from toolkit_whisper.scoring import Evaluate
from toolkit_whisper.settings import WhisperSettings

from toolkit import Batch

Clip = Callable[..., torch.Tensor]
SETTINGS = {"english": WhisperSettings(), "multilingual": WhisperSettings("de", "translate")}


def batch_for(
    whisper: Any, clip: Clip, settings: WhisperSettings, languages: tuple[str, ...] = ("de", "de")
) -> Batch:
    model, processor = whisper
    set_prompt(processor.tokenizer, model, settings)
    prompts = [prompt_for(language, processor.tokenizer) for language in languages]
    rows = [
        {
            "audio": clip(1 + seed, seed),
            "text": text,
            "language": languages[seed],
            "prompt": prompts[seed],
            "labels": labels_of(text, processor.tokenizer, prompts[seed]),
            "row_id": seed,
        }
        for seed, text in enumerate(["yes", "not now"])
    ]
    return Collator(processor, settings)(rows)


@pytest.mark.parametrize("kind", SETTINGS)
def test_texts_are_those_of_transformers_own_generate(kind: str, clip: Clip, request: Any) -> None:
    whisper = model, processor = request.getfixturevalue(kind)
    settings = SETTINGS[kind]
    batch = batch_for(whisper, clip, settings)
    asked = {"language": settings.language, "task": settings.task} if kind == "multilingual" else {}
    tokens = model.generate(input_features=batch["input_features"], **asked)
    expected = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    with torch.no_grad():
        scored = Evaluate(processor, WhisperSettings())(model, batch)
    assert scored.predictions == expected
    assert len(set(expected)) == 2
    assert scored.references == ["yes", "not now"]


def test_the_prompt_makes_a_difference(multilingual: Any, clip: Clip) -> None:
    model, processor = multilingual
    texts = []
    for language in ("de", "fr"):
        batch = batch_for(multilingual, clip, WhisperSettings(), (language, language))
        texts.append(Evaluate(processor, WhisperSettings())(model, batch).predictions)
    assert texts[0] != texts[1]


def test_rows_of_one_batch_may_be_in_different_languages(multilingual: Any, clip: Clip) -> None:
    model, processor = multilingual
    mixed = batch_for(multilingual, clip, WhisperSettings(task="translate"), ("fr", "de"))
    texts = Evaluate(processor, WhisperSettings())(model, mixed).predictions
    for place, language in enumerate(("fr", "de")):
        sound = mixed["input_features"][place : place + 1]
        alone = model.generate(input_features=sound, language=language, task="translate")
        assert processor.batch_decode(alone, skip_special_tokens=True)[0].strip() == texts[place]
    assert mixed["languages"] == ["en", "en"]  # of translations
    assert batch_for(multilingual, clip, WhisperSettings(), ("fr", "de"))["languages"] == ["fr", "de"]


@pytest.mark.parametrize("kind", SETTINGS)
def test_beams_are_those_of_transformers_own_generate(kind: str, clip: Clip, request: Any) -> None:
    whisper = model, processor = request.getfixturevalue(kind)
    settings = SETTINGS[kind]
    batch = batch_for(whisper, clip, settings)
    asked = {"language": settings.language, "task": settings.task} if kind == "multilingual" else {}
    found = {}
    for beams in (1, 4):
        tokens = model.generate(input_features=batch["input_features"], num_beams=beams, **asked)
        expected = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
        with torch.no_grad():
            scored = Evaluate(processor, WhisperSettings(num_beams=beams))(model, batch)
        assert scored.predictions == expected
        found[beams] = expected
    assert found[1] != found[4]


@pytest.mark.parametrize("peft", [False, True])
def test_the_encoder_runs_once_and_the_loss_is_that_of_training(english: Any, clip: Clip, peft: bool) -> None:
    batch = batch_for(english, clip, WhisperSettings())
    model, processor = english
    if peft:
        config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = get_peft_model(model, config).eval()
    expected = summed_cross_entropy(model, batch)
    calls: list[int] = []
    model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    scored = Evaluate(processor, WhisperSettings())(model, batch)
    assert calls == [1]
    assert scored.loss.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    assert scored.loss.count == expected.count


@pytest.mark.parametrize(("asked", "made"), [(None, 38), (7, 7), (1_000, 38)])
def test_texts_end_where_the_settings_or_the_decoder_do(
    english: Any, clip: Clip, asked: Any, made: int
) -> None:
    batch = batch_for(english, clip, WhisperSettings())
    model, processor = english
    model.generation_config.suppress_tokens = [processor.tokenizer.eos_token_id]
    model.generation_config.max_new_tokens = 3
    lengths: list[int] = []
    model.proj_out.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[-2]))
    Evaluate(processor, WhisperSettings(max_new_tokens=asked))(model, batch)
    loss, prompt, *steps = lengths
    assert (loss, prompt) == (batch["num_targets"], 2)
    assert steps == [1] * (made - 1)  # with a cache, one position a token


@pytest.mark.parametrize(
    "own",
    [
        {"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}, {"force_words_ids": [[1]]},
        {"stop_strings": ["a"]}, {"bad_words_ids": [[10**7]]}, {"prompt_lookup_num_tokens": 3},
        {"is_assistant": True}, {"num_return_sequences": 5}, {"eos_token_id": "abc"}, {"eos_token_id": [[1]]},
        {"return_dict_in_generate": True}, {"max_time": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_how_a_model_would_generate_elsewhere_does_not_count(
    own: dict[str, Any], english: Any, clip: Clip
) -> None:
    batch = batch_for(english, clip, WhisperSettings())
    model, processor = english
    expected = Evaluate(processor, WhisperSettings())(model, batch).predictions
    for name, value in own.items():
        setattr(model.generation_config, name, value)
    assert Evaluate(processor, WhisperSettings())(model, batch).predictions == expected


def test_a_model_in_half_precision(english: Any, clip: Clip) -> None:
    batch = batch_for(english, clip, WhisperSettings())
    model, processor = english
    scored = Evaluate(processor, WhisperSettings())(model.to(torch.bfloat16), batch)
    assert len(scored.predictions) == 2


def test_nothing_of_the_model_changes_and_nothing_is_warned_of(
    multilingual: Any, clip: Clip, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("transformers")
    type(logger).warning_once.cache_clear()  # type: ignore[attr-defined]
    monkeypatch.setattr(logger, "propagate", True)
    batch = batch_for(multilingual, clip, WhisperSettings("de"))
    model, processor = multilingual
    model.config.use_cache = False
    model.generation_config.forced_decoder_ids = [[1, 280], [2, 359]]  # as in older files
    before = copy.deepcopy((model.config.to_dict(), model.generation_config.to_dict()))
    Evaluate(processor, WhisperSettings(max_new_tokens=5))(model, batch)
    assert (model.config.to_dict(), model.generation_config.to_dict()) == before
    assert caplog.messages == []
