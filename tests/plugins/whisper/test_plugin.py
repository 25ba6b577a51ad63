"""The hooks, asked as the core asks them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import toolkit_whisper
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from toolkit_whisper.model import WhisperProcessor, check_fit
from toolkit_whisper.settings import WhisperSettings
from transformers import LlamaConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers import WhisperProcessor as TheirProcessor

from toolkit import DataError, ModelError, Recipe, RecipeError

Clip = Callable[..., torch.Tensor]
Write = Callable[..., Path]


def recipe(settings: WhisperSettings | None = None, **values: Any) -> Recipe:
    made = Recipe(name="test", plugins=["whisper"], **values)
    return made.with_settings({WhisperSettings: settings or WhisperSettings()})


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """A model and its processor in a folder, as a user has them."""

    def save(whisper: Any) -> str:
        for part in whisper:
            part.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, toolkit_whisper; print({'torch', 'transformers', 'soundfile'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_columns_are_recognised_by_their_usual_names() -> None:
    audio, text, language, start, end, segments = toolkit_whisper.toolkit_columns()
    assert (audio.name, text.name) == ("audio", "text")
    assert "file_name" in audio.usual
    assert "transcription" in text.usual
    assert audio.required
    assert text.required
    assert (language.name, language.required) == ("language", False)
    assert [(one.name, one.usual, one.required) for one in (start, end)] == [
        ("start", (), False),
        ("end", (), False),
    ]
    assert (segments.name, segments.required, segments.holds_rows) == ("segments", False, True)


def test_faults_that_are_known_before_the_model_is() -> None:
    assert toolkit_whisper.toolkit_settings() is WhisperSettings
    assert toolkit_whisper.toolkit_check(recipe(adapter={"r": 4})) == []
    wrong = recipe(
        WhisperSettings(max_new_tokens=0, num_beams=0), adapter={"r": 4, "task_type": "SEQ_2_SEQ_LM"}
    )
    tokens, beams, task = toolkit_whisper.toolkit_check(wrong)
    assert isinstance(tokens, RecipeError)
    assert "whisper.max_new_tokens: must be at least 1, found 0" in str(tokens)
    assert "whisper.num_beams: must be at least 1, found 0" in str(beams)
    assert "adapter.task_type: 'SEQ_2_SEQ_LM'" in str(task)


@pytest.mark.parametrize("kind", ["english", "multilingual"])
def test_from_folder_to_scores_and_texts(
    kind: str, saved: Any, clip: Clip, write: Write, request: Any
) -> None:
    folder = saved(request.getfixturevalue(kind))
    settings = WhisperSettings("de" if kind == "multilingual" else None, max_new_tokens=5)
    asked = recipe(settings, model=folder)
    model, processor = toolkit_whisper.toolkit_model(asked)()
    assert all(weights.dtype == torch.float32 for weights in model.parameters())
    prepare = pickle.loads(pickle.dumps(toolkit_whisper.toolkit_prepare(recipe(), processor)))
    raw = [
        {
            "audio": str(write(f"{seed}.wav", clip(1, seed), 22_050)),
            "text": text,
            "row_id": seed,
            "speaker": "a",
        }
        for seed, text in enumerate(["one", "two three"])
    ]
    rows = [prepare(row) for row in raw]
    assert rows[0]["audio"].shape == (-(-16_000 * 16_000 // 22_050),)
    assert rows[0]["speaker"] == "a"
    batch = toolkit_whisper.toolkit_collator(asked, processor)(rows)
    loss = toolkit_whisper.toolkit_loss()(model.eval(), batch)
    scored = toolkit_whisper.toolkit_evaluate_batch(asked, processor)(model, batch)
    assert scored.loss.total.item() == pytest.approx(loss.total.item(), rel=1e-5)
    (rates,) = toolkit_whisper.toolkit_metrics(recipe(), processor)
    rates.update(scored)
    assert set(rates.compute()) == {"wer", "cer", "wer_raw", "cer_raw"}
    texts = toolkit_whisper.toolkit_predict(asked, model, processor)([row["audio"] for row in raw])
    assert texts == scored.predictions


def test_bad_rows_are_named(english: Any, write: Write, clip: Clip) -> None:
    prepare = toolkit_whisper.toolkit_prepare(recipe(), english[1])
    path = str(write("clip.wav", clip(3)))
    with pytest.raises(DataError, match=r"clip\.wav lasts 3 s, longer than the window of 2 s"):
        prepare({"audio": path, "text": "yes", "row_id": 0})
    with pytest.raises(DataError, match=r"clip\.wav: the transcript is empty"):
        prepare({"audio": path, "text": " ", "row_id": 0})


def test_a_row_may_be_a_part_of_a_long_file(english: Any, write: Write, clip: Clip) -> None:
    prepare = toolkit_whisper.toolkit_prepare(recipe(), english[1])
    sound = clip(5)
    row = {"audio": str(write("talk.wav", sound, subtype="FLOAT")), "text": "yes", "row_id": 0}
    assert torch.equal(prepare({**row, "start": "1.5", "end": 3})["audio"], sound[24_000:48_000])
    assert torch.equal(prepare({**row, "start": 3.5, "end": ""})["audio"], sound[56_000:])
    assert torch.equal(prepare({**row, "start": None, "end": "2"})["audio"], sound[:32_000])
    for given in ("1:20", "-1", "nan", [1]):
        with pytest.raises(DataError, match=r"talk\.wav: start: expected seconds, found"):
            prepare({**row, "start": given})


def test_a_language_is_checked_before_the_model_is_loaded() -> None:
    with pytest.raises(RecipeError, match="no language of Whisper's"):
        toolkit_whisper.toolkit_model(recipe(WhisperSettings("elvish"), model="no-such-model"))()


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a WhisperForConditionalGeneration"):
        toolkit_whisper.toolkit_model(recipe(model=str(tmp_path)))()


def test_an_adapter_is_loaded_with_its_base(english: Any, saved: Any, tmp_path: Path) -> None:
    folder = saved(english)
    base = WhisperForConditionalGeneration.from_pretrained(folder)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    model, processor = toolkit_whisper.toolkit_model(recipe(model=str(tmp_path / "adapter")))()
    assert isinstance(model, PeftModel)
    assert processor.tokenizer.model_max_length == english[0].config.max_target_positions


def test_a_multilingual_model_without_a_language_is_refused(
    multilingual: Any, saved: Any, write: Write, clip: Clip
) -> None:
    _, processor = toolkit_whisper.toolkit_model(recipe(model=saved(multilingual)))()
    row = {"audio": str(write("clip.wav", clip(1))), "text": "yes", "row_id": 0}
    prepare = toolkit_whisper.toolkit_prepare(recipe(), processor)
    assert prepare({**row, "language": "de-AT"})["language"] == "de"
    with pytest.raises(RecipeError) as caught:
        prepare(row)
    assert "--set whisper.language=en, or add a column `language`" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"clip\.wav: 'elvish' is no language of Whisper's"):
        prepare({**row, "language": "elvish"})


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_plain_generate_asks_as_the_settings_say(
    task: Any, multilingual: Any, saved: Any, clip: Clip, write: Write, tmp_path: Path
) -> None:
    """The nano model's texts differ by language and task."""
    asked = recipe(WhisperSettings("de", task=task), model=saved(multilingual))
    model, processor = toolkit_whisper.toolkit_model(asked)()
    paths = [str(write(f"{seed}.wav", clip(2, seed))) for seed in range(3)]
    texts = toolkit_whisper.toolkit_predict(asked, model.eval(), processor)(paths)
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    plain = WhisperForConditionalGeneration.from_pretrained(tmp_path / "trained")
    its = TheirProcessor.from_pretrained(tmp_path / "trained")
    sounds = [soundfile.read(path, dtype="float32")[0] for path in paths]
    features = its(sounds, sampling_rate=16_000, return_tensors="pt").input_features
    heard = its.batch_decode(plain.generate(input_features=features), skip_special_tokens=True)
    assert [text.strip() for text in heard] == texts
    assert len(set(texts)) > 1


def test_objects_given_in_code_are_asked_as_the_settings_say(
    multilingual: Any, saved: Any, write: Write, clip: Clip
) -> None:
    """Plain transformers' processor knows no language, and takes any number of tokens."""
    folder = saved(multilingual)
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    processor = TheirProcessor.from_pretrained(folder)
    processor.tokenizer.model_max_length = 10**6
    toolkit_whisper.toolkit_given(recipe(WhisperSettings("de")), model, processor)
    row = {"audio": str(write("clip.wav", clip(1))), "text": "yes", "row_id": 0}
    prompt = toolkit_whisper.toolkit_prepare(recipe(), processor)(row)["prompt"]
    asked = ["<|startoftranscript|>", "<|de|>", "<|transcribe|>", "<|notimestamps|>"]
    assert processor.tokenizer.convert_ids_to_tokens(prompt) == asked
    assert model.generation_config.language == "de"
    with pytest.raises(DataError, match="the decoder takes 40"):
        toolkit_whisper.toolkit_prepare(recipe(), processor)({**row, "text": "x" * 50})


def test_what_a_given_processor_was_told_stays_where_the_settings_are_silent(
    multilingual: Any, saved: Any
) -> None:
    model, _ = multilingual
    processor = TheirProcessor.from_pretrained(saved(multilingual), language="fr", task="translate")
    toolkit_whisper.toolkit_given(recipe(), model, processor)
    assert (processor.tokenizer.language, processor.tokenizer.task) == ("fr", "translate")
    toolkit_whisper.toolkit_given(recipe(WhisperSettings("de")), model, processor)
    assert (processor.tokenizer.language, processor.tokenizer.task) == ("de", "translate")


def test_given_objects_that_do_not_fit_are_refused(english: Any) -> None:
    model, processor = english
    with pytest.raises(ModelError, match="without its processor"):
        toolkit_whisper.toolkit_given(recipe(), model, None)
    with pytest.raises(ModelError, match="is a Linear, no Whisper"):
        toolkit_whisper.toolkit_given(recipe(), torch.nn.Linear(1, 1), processor)
    with pytest.raises(RecipeError, match="English-only"):
        toolkit_whisper.toolkit_given(recipe(WhisperSettings("de")), model, processor)


def test_a_processor_of_another_model_is_refused(english: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = english
    check_fit(model.config, processor)
    with monkeypatch.context() as patch:
        patch.setattr(processor.tokenizer, "get_vocab", lambda: {"a": 10**6})
        with pytest.raises(ModelError, match="tokens: up to number 1000000"):
            check_fit(model.config, processor)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=30)
    model.config.decoder_start_token_id = 7
    model.config.vocab_size = 100
    with pytest.raises(ModelError) as caught:
        check_fit(model.config, processor)
    assert "mel bands: 128, not 80" in caught.value.message
    assert "frames in a window: 3000, not 200" in caught.value.message
    assert "id of <|startoftranscript|>: 257, not 7" in caught.value.message
    assert "tokens: up to number 264, not 99" in caught.value.message


def test_the_map_of_spellings_is_saved_with_the_processor(english: Any, tmp_path: Path) -> None:
    processor = english[1]
    processor.tokenizer.english_spelling_normalizer = {"colour": "color"}
    ours = WhisperProcessor(processor.feature_extractor, processor.tokenizer)
    ours.save_pretrained(tmp_path)
    again = TheirProcessor.from_pretrained(tmp_path)
    assert again.tokenizer.english_spelling_normalizer == {"colour": "color"}
    assert again.tokenizer("a").input_ids == processor.tokenizer("a").input_ids
