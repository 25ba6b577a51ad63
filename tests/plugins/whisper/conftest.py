"""Two Whispers of nano size, English-only and multilingual, with all the special tokens of the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.models.whisper.tokenization_whisper import LANGUAGES

WINDOW_SECONDS = 2
MAX_TOKENS = 40
END, START = "<|endoftext|>", "<|startoftranscript|>"
TASKS = ["<|translate|>", "<|transcribe|>"]
REST = ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]

Nano = tuple[WhisperForConditionalGeneration, WhisperProcessor]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nano_tokenizer(languages: list[str]) -> WhisperTokenizer:
    """One token a byte, then the special tokens in Whisper's order."""
    vocabulary = {letter: place for place, letter in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], pad_token=END)
    special = [END, START, *(f"<|{code}|>" for code in languages), *TASKS, *REST]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.set_prefix_tokens()
    return tokenizer


def nano_whisper(languages: list[str], multilingual: bool) -> Nano:
    tokenizer = nano_tokenizer(languages)
    ids = tokenizer.convert_tokens_to_ids
    ends = {"bos_token_id": ids(END), "eos_token_id": ids(END), "pad_token_id": ids(END)}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=50 * WINDOW_SECONDS,
        max_target_positions=MAX_TOKENS,
        init_std=0.5,  # far from nought, so that texts differ by sound and by prompt
        decoder_start_token_id=ids(START),
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **ends,
    )
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    known = {"lang_to_id": {f"<|{code}|>": ids(f"<|{code}|>") for code in languages}} if multilingual else {}
    known |= {"task_to_id": {task[2:-2]: ids(task) for task in TASKS}} if multilingual else {}
    model.generation_config = GenerationConfig(
        is_multilingual=multilingual,
        no_timestamps_token_id=ids("<|notimestamps|>"),
        decoder_start_token_id=ids(START),
        suppress_tokens=[3, 5, *(ids(token) for token in REST)],
        begin_suppress_tokens=[ids(END)],
        max_length=MAX_TOKENS,
        **ends,
        **known,
    )
    return model, WhisperProcessor(WhisperFeatureExtractor(chunk_length=WINDOW_SECONDS), tokenizer)


@pytest.fixture
def nano() -> Callable[..., Nano]:
    """A model and its processor: `nano(languages, multilingual)`."""
    return nano_whisper


@pytest.fixture
def english() -> Nano:
    return nano_whisper(languages=["en"], multilingual=False)


@pytest.fixture
def multilingual() -> Nano:
    return nano_whisper(languages=list(LANGUAGES), multilingual=True)


@pytest.fixture
def clip() -> Callable[..., torch.Tensor]:
    """Speech-like sound: `clip(seconds, seed)` is (samples,) float32 at 16 kHz."""

    def make(seconds: float, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(int(seconds * 16_000), generator=generator)
        tone = torch.sin(torch.arange(len(noise)) * (0.05 + 0.02 * seed))
        return 0.1 * noise + 0.4 * tone

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a sound file: `write(name, samples, rate, subtype)`, samples (frames,) or (frames, channels)."""

    def put(name: str, samples: Any, rate: int = 16_000, subtype: str | None = None) -> Path:
        soundfile.write(tmp_path / name, np.asarray(samples), rate, subtype=subtype)
        return tmp_path / name

    return put
