"""Rows looked at, against what preparing them really does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_whisper import toolkit_inspect, toolkit_prepare, toolkit_show
from toolkit_whisper.labels import set_prompt
from toolkit_whisper.settings import WhisperSettings

from toolkit import DataError

Write = Callable[..., Path]


@pytest.fixture
def processor(english: Any) -> Any:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    return processor


def facts_and_reason(processor: Any, row: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    try:
        return dict(toolkit_inspect(processor)(row)), None
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
        (48_000, "Hi", "no: over 2 s", "a.wav lasts 3 s, longer than the model's 2 s"),
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
        toolkit_prepare(processor)(row)
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
        toolkit_prepare(processor)(row)
    assert caught.value.message == reason


def test_no_sound_is_decoded(processor: Any, write: Write) -> None:
    """A file cut off after its header looks whole; reading it would say otherwise."""
    path = write("a.flac", torch.rand(16_000))
    path.write_bytes(path.read_bytes()[:200])
    assert facts_and_reason(processor, {"audio": str(path), "text": "Hi", "row_id": 0})[1] is None


def test_a_row_as_the_model_sees_it(processor: Any) -> None:
    row = toolkit_prepare(processor)(
        {"audio": {"array": [0.0] * 8_000, "sampling_rate": 16_000}, "text": "Hi", "row_id": 0}
    )
    assert toolkit_show(processor)(row) == (
        "0.50 s of sound at 16000 Hz, 4 label tokens: <|startoftranscript|><|notimestamps|>Hi<|endoftext|>"
    )


def test_a_row_of_a_multilingual_model(multilingual: Any) -> None:
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings(language="de", task="translate"))
    row = toolkit_prepare(processor)(
        {"audio": {"array": [0.0] * 16_000, "sampling_rate": 16_000}, "text": "Hi", "row_id": 0}
    )
    start = "<|startoftranscript|><|de|><|translate|><|notimestamps|>"
    assert toolkit_show(processor)(row).endswith(f"6 label tokens: {start}Hi<|endoftext|>")
