"""Rows looked at, against what preparing them really does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_whisper import toolkit_inspect, toolkit_prepare, toolkit_row_length, toolkit_show
from toolkit_whisper.labels import set_prompt
from toolkit_whisper.settings import WhisperSettings

from toolkit import DataError, Recipe, run
from toolkit.check import check

TASK = Recipe(name="test", plugins=["whisper"]).with_settings({WhisperSettings: WhisperSettings()})

Write = Callable[..., Path]


@pytest.fixture
def processor(english: Any) -> Any:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    return processor


def facts_and_reason(processor: Any, row: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    try:
        return dict(toolkit_inspect(TASK, processor)(row)), None
    except DataError as error:
        return dict(error.facts), error.message


def test_the_facts_of_a_good_row(processor: Any, write: Write) -> None:
    path = write("a.wav", torch.zeros(12_000), rate=8_000)
    facts, reason = facts_and_reason(processor, {"audio": str(path), "text": "Hi", "row_id": 0})
    # <|notimestamps|> H i <|endoftext|>
    assert facts == {"label tokens": 4, "seconds": 1.5, "sampling rate": "8000 Hz", "usable": "yes"}
    assert reason is None


def test_sound_in_memory_and_as_bytes(processor: Any, write: Write) -> None:
    path = write("a.flac", torch.zeros(16_000))
    held = {"bytes": path.read_bytes(), "path": None}
    array = {"array": [0.0] * 16_000, "sampling_rate": 16_000}
    for audio in (held, array):
        facts, _ = facts_and_reason(processor, {"audio": audio, "text": "Hi", "row_id": 0})
        assert (facts["seconds"], facts["usable"]) == (1.0, "yes")


@pytest.mark.parametrize(
    ("samples", "text", "why", "reason"),
    [
        (16_000, "", "no: no transcript", "a.wav: the transcript is empty"),
        (16_000, "  ", "no: no transcript", "a.wav: the transcript is empty"),
        (16_000, None, "no: no transcript", "a.wav: the transcript is no text: None"),
        (
            16_000,
            "x" * 39,
            "no: over 40 tokens",
            "a.wav: the transcript makes 41 tokens, the decoder takes 40",
        ),
        (48_000, "Hi", "no: over 2 s", "a.wav lasts 3 s, longer than the window of 2 s"),
        (0, "Hi", "no: sound missing or unreadable", "a.wav holds no samples"),
    ],
)
def test_rows_that_cannot_be_used(
    processor: Any, write: Write, samples: int, text: Any, why: str, reason: str
) -> None:
    """The reason is the one that preparing the row would give."""
    row = {"audio": str(write("a.wav", torch.zeros(samples))), "text": text, "row_id": 0}
    facts, found = facts_and_reason(processor, row)
    assert facts["usable"] == why
    assert found is not None
    assert found.endswith(reason)
    with pytest.raises(DataError) as caught:
        toolkit_prepare(TASK, processor)(row)
    assert caught.value.message == found


def test_what_was_known_of_a_bad_row_is_kept(processor: Any, write: Write) -> None:
    path = str(write("a.wav", torch.zeros(48_000)))
    long_sound, _ = facts_and_reason(processor, {"audio": path, "text": "Hi", "row_id": 0})
    assert (long_sound["seconds"], long_sound["label tokens"]) == (3.0, 4)
    long_text, _ = facts_and_reason(processor, {"audio": path, "text": "x" * 100, "row_id": 0})
    assert long_text["label tokens"] == 102


@pytest.mark.parametrize("content", [None, b"", b"no sound at all"])
def test_files_that_are_missing_or_unreadable(processor: Any, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.wav").write_bytes(content)
    row = {"audio": str(tmp_path / "a.wav"), "text": "Hi", "row_id": 0}
    facts, reason = facts_and_reason(processor, row)
    assert facts["usable"] == "no: sound missing or unreadable"
    with pytest.raises(DataError) as caught:
        toolkit_prepare(TASK, processor)(row)
    assert caught.value.message == reason


def test_no_sound_is_decoded(processor: Any, write: Write) -> None:
    """A file cut off after its header looks whole; reading it would say otherwise."""
    path = write("a.flac", torch.rand(16_000))
    path.write_bytes(path.read_bytes()[:200])
    assert facts_and_reason(processor, {"audio": str(path), "text": "Hi", "row_id": 0})[1] is None


def test_a_row_as_the_model_sees_it(processor: Any) -> None:
    row = toolkit_prepare(TASK, processor)(
        {"audio": {"array": [0.0] * 8_000, "sampling_rate": 16_000}, "text": "Hi", "row_id": 0}
    )
    assert toolkit_show(processor)(row) == (
        "0.50 s of sound at 16000 Hz, 4 label tokens: <|startoftranscript|><|notimestamps|>Hi<|endoftext|>"
    )


def test_a_row_of_a_multilingual_model(multilingual: Any) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings(language="de", task="translate"))
    row = toolkit_prepare(TASK, processor)(
        {"audio": {"array": [0.0] * 16_000, "sampling_rate": 16_000}, "text": "Hi", "row_id": 0}
    )
    start = "<|startoftranscript|><|de|><|translate|><|notimestamps|>"
    assert toolkit_show(processor)(row).endswith(f"6 label tokens: {start}Hi<|endoftext|>")


@pytest.mark.parametrize(
    ("language", "facts"),
    [
        ("German", {"language": "de", "label tokens": 6, "usable": "yes"}),
        ("tlh", {"usable": "no: no known language"}),
        (None, {"usable": "no: no known language"}),
    ],
)
def test_the_languages_of_rows(multilingual: Any, language: str | None, facts: dict[str, Any]) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings())
    audio = {"array": [0.0] * 16_000, "sampling_rate": 16_000}
    row = {"audio": audio, "text": "Hi", "language": language, "row_id": 0}
    found, _ = facts_and_reason(processor, row)
    assert {name: found.get(name) for name in facts} == facts


def test_a_part_of_a_long_file(processor: Any, write: Write) -> None:
    path = str(write("a.wav", torch.zeros(80_000)))
    row = {"audio": path, "text": "Hi", "start": 1.0, "end": "2.5", "row_id": 0}
    assert (
        facts_and_reason(processor, row)[0]["seconds"]
        == 1.5
        == toolkit_prepare(TASK, processor)(row)["seconds"]
    )
    assert facts_and_reason(processor, {**row, "end": 9.0})[0]["usable"] == "no: sound missing or unreadable"


@pytest.fixture
def whole(english: Any, tmp_path: Path, write: Write) -> Recipe:
    """A recipe over a model and twelve clips on disk, three of which cannot be used."""
    for part in english:
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    lengths = [0.5] * 10 + [2.5, 0.5]
    for number, seconds in enumerate(lengths):
        write(f"data/{number}.wav", torch.rand(int(seconds * 16_000)) / 10)
    texts = ["Hi"] * 11 + ["x" * 50]
    lines = [f"{number}.wav,{text}" for number, text in enumerate(texts)]
    table = "\n".join(["file_name,sentence", *lines, "gone.wav,Hi"])
    (tmp_path / "data" / "metadata.csv").write_text(table + "\n")
    return Recipe(
        name="whole",
        plugins=["whisper"],
        model=str(tmp_path / "model"),
        data={"source": str(tmp_path / "data"), "max_bad_fraction": 0.3},
        adapter={"r": 2, "target_modules": ["decoder.layers.*.self_attn.q_proj"]},
        train={"per_device_train_batch_size": 2, "use_cpu": True, "learning_rate": 1e-3},
    )


def test_a_whole_check_with_its_dry_run(whole: Recipe, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    report = check(whole, with_dry_run=True)
    assert [fault.message for fault in report.faults] == []
    assert report.columns == {"audio": "file_name", "text": "sentence"}
    facts, rows = report.facts or {}, report.rows or {}
    assert facts["usable"] == {"yes": 10, "no: over 2 s": 1, "no: over 40 tokens": 1}
    assert facts["seconds"] == {"min": 0.5, "median": 0.5, "max": 2.5, "total": 7.5}
    assert facts["label tokens"]["max"] == 52
    assert facts["sampling rate"] == {"16000 Hz": 11}
    assert (rows["total"], rows["unusable"], rows["unreadable"]) == (13, 3, 1)
    assert any("'gone.wav' does not exist" in reason for reason in rows["reasons"])
    assert report.adapter == [
        {"entry": "decoder.layers.*.self_attn.q_proj", "matched": 1,
         "examples": ["model.decoder.layers.0.self_attn.q_proj"]}
    ]  # fmt: skip
    assert (report.parameters or {})["trainable"] == 2 * (32 + 32)
    outcome = report.dry_run or {}
    assert set(outcome["metrics"]) == {"loss", "wer", "cer", "wer_raw", "cer_raw"}
    assert outcome["metrics"] == pytest.approx(outcome["reloaded"], rel=1e-5)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_with_too_many_bad_clips_is_refused_at_once(whole: Recipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="3 of 13 rows cannot be used, more than a share of") as caught:
        run(whole.override(data={"max_bad_fraction": 0.2}), tmp_path / "out")
    assert "lasts 2.5 s, longer than the window of 2 s" in caught.value.message
    assert not (tmp_path / "out").exists()


def test_a_fault_of_the_adapter_is_told_once(whole: Recipe) -> None:
    report = check(whole.override(adapter={"task_type": "CAUSAL_LM", "r": 4}, train={"learning_rat": 1}))
    assert [fault.message.split(":")[0] for fault in report.faults] == [
        "train.learning_rat",
        "adapter.task_type",
    ]
    assert [one["matched"] for one in report.adapter or ()] == [1]


def test_the_length_of_a_row_is_how_long_it_sounds(clip: Any, write: Any) -> None:
    row = {"audio": str(write("talk.wav", clip(5), 22_050)), "text": "not asked for"}
    length = toolkit_row_length()
    assert length(row) == pytest.approx(5 * 16_000 / 22_050, abs=1e-3)
    assert length({**row, "start": 0.5, "end": "2"}) == pytest.approx(1.5)
    with pytest.raises(DataError):
        length({"audio": "gone.wav"})
