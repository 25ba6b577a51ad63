from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolkit_whisper.features import FeatureSpec, log_mel
from toolkit_whisper.labels import set_prompt
from toolkit_whisper.predict import Transcriber, cut
from toolkit_whisper.settings import WhisperSettings
from toolkit_whisper.transcribe import transcribe

from toolkit import DataError

Clip = Callable[..., torch.Tensor]
Write = Callable[..., Path]
RATE = 1_000
SIX = WhisperSettings(max_new_tokens=6)


@pytest.fixture
def transcriber(english: Any) -> Transcriber:
    model, processor = english
    set_prompt(processor.tokenizer, model, WhisperSettings())
    return Transcriber(model, processor, SIX)


@given(blocks=st.lists(st.integers(1, 5_000), max_size=8), seed=st.integers(0, 5))
def test_every_sample_is_in_exactly_one_piece_and_no_piece_is_longer_than_the_window(
    blocks: list[int], seed: int
) -> None:
    whole = torch.randn(sum(blocks), generator=torch.Generator().manual_seed(seed))
    pieces = list(cut(whole.split(blocks), RATE, max_seconds=2))
    assert torch.equal(torch.cat([torch.empty(0), *pieces]), whole)
    assert all(len(piece) <= 2 * RATE for piece in pieces)
    assert all(len(piece) >= 4 * RATE // 3 for piece in pieces[:-1])
    again = cut([whole], RATE, max_seconds=2)
    assert [len(piece) for piece in again] == [len(piece) for piece in pieces]


def test_cuts_fall_into_the_pauses() -> None:
    sound = torch.ones(5 * RATE)
    pauses = [(1_500, 1_800), (3_050, 3_300)]
    for start, end in pauses:
        sound[start:end] = 0
    places = np.cumsum([len(piece) for piece in cut([sound], RATE, max_seconds=2)])[:-1]
    assert len(places) == 2
    assert all(start + 50 <= place <= end - 50 for place, (start, end) in zip(places, pauses, strict=True))


def test_a_short_file_is_one_clip(transcriber: Transcriber, english: Any, clip: Clip, write: Write) -> None:
    model, processor = english
    path = write("clip.wav", clip(1.5), subtype="FLOAT")
    features = log_mel(clip(1.5), FeatureSpec.of(processor.feature_extractor))
    encoded = model.get_encoder()(features[None])
    prompt = torch.tensor([processor.tokenizer.prefix_tokens])
    expected = transcribe(model, encoded, processor.tokenizer, prompt, SIX)
    assert transcriber([str(path)]) == expected


def test_a_long_file_is_the_texts_of_its_pieces(transcriber: Transcriber, clip: Clip, write: Write) -> None:
    sound = torch.cat([clip(1.6, seed) for seed in range(12)])
    path = write("long.wav", sound, subtype="FLOAT")
    pieces = list(cut([sound], 16_000, max_seconds=2))
    assert len(pieces) > 8  # more than go into one batch
    parts = [str(write(f"{place}.wav", piece, subtype="FLOAT")) for place, piece in enumerate(pieces)]
    text, *texts = transcriber([str(path), *parts])
    assert text == " ".join(filter(None, texts))
    assert text


def test_files_keep_their_order_and_silence_is_no_text(
    transcriber: Transcriber, clip: Clip, write: Write
) -> None:
    first = str(write("first.wav", clip(0.5, 1), subtype="FLOAT"))
    second = str(write("second.flac", clip(1.0, 2)))
    silent = str(write("silent.wav", np.zeros(100_000)))
    assert transcriber([first, silent, second]) == [*transcriber([first]), "", *transcriber([second])]
    assert transcriber([]) == []


def test_a_bad_file_is_found_before_the_first_is_transcribed(
    transcriber: Transcriber, clip: Clip, write: Write, tmp_path: Path
) -> None:
    calls: list[int] = []
    transcriber.whisper.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk")
    with pytest.raises(DataError, match=r"notes\.txt is not audio that can be read"):
        transcriber([str(write("clip.wav", clip(1))), str(notes)])
    assert calls == []


def test_a_file_without_samples_is_an_error(transcriber: Transcriber, write: Write) -> None:
    with pytest.raises(DataError, match=r"none\.wav holds no samples"):
        transcriber([str(write("none.wav", np.zeros(0)))])


def test_a_language_that_nobody_told_is_heard_once_a_file(
    multilingual: Any, clip: Clip, write: Write
) -> None:
    """transformers detects it for each clip; the pieces of a file are all in the language of its first."""
    model, processor = multilingual
    set_prompt(processor.tokenizer, model, WhisperSettings())
    transcriber = Transcriber(model, processor, SIX)
    sounds = [clip(1.5, seed) for seed in range(3)]
    paths = [str(write(f"{seed}.wav", sound, subtype="FLOAT")) for seed, sound in enumerate(sounds)]
    features = torch.stack([log_mel(sound, FeatureSpec.of(processor.feature_extractor)) for sound in sounds])
    tokens = model.generate(input_features=features, task="transcribe", max_new_tokens=6)
    expected = [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    assert transcriber(paths) == expected
    languages = {0: "de"}
    encoded = model.get_encoder()(features)
    prompts = transcriber._prompts([0, 1, 1], encoded, languages)
    heard = processor.tokenizer.convert_ids_to_tokens(model.detect_language(features).tolist())
    assert languages == {0: "de", 1: heard[1][2:-2]}
    assert prompts[1] == prompts[2] != prompts[0]
