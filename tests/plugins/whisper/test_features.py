"""Our log-mel against transformers' feature extractor."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolkit_whisper.features import FeatureSpec, _mel_spectrogram, log_mel
from transformers import WhisperFeatureExtractor

TOLERANCE = 1e-4


@functools.cache
def extractor(mels: int, window_seconds: int) -> WhisperFeatureExtractor:
    return WhisperFeatureExtractor(feature_size=mels, chunk_length=window_seconds)


def difference(audio: torch.Tensor, mels: int = 80, window_seconds: int = 30) -> float:
    reference = extractor(mels, window_seconds)
    expected = reference(audio.numpy(), sampling_rate=16_000, return_tensors="pt").input_features[0]
    ours = log_mel(audio, FeatureSpec.of(reference))
    assert ours.shape == expected.shape == (mels, 100 * window_seconds)
    assert ours.dtype == torch.float32
    return float((ours - expected).abs().max())


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def chirp(samples: int) -> torch.Tensor:
    time = torch.arange(samples) / 16_000
    return 0.5 * torch.sin(2 * torch.pi * (50 * time + 200 * time.square()))


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.1, 1.0, 3.7, 12.34, 29.97, 29.99, 30.0])
def test_equal_to_the_feature_extractor(mels: int, seconds: float) -> None:
    samples = round(seconds * 16_000)
    assert difference(noise(samples) + chirp(samples), mels) < TOLERANCE


@given(
    samples=st.integers(1, 32_000), seed=st.integers(0, 3), loudness=st.sampled_from([1e-6, 1e-3, 1.0, 1e3])
)
def test_equal_for_any_length_in_a_short_window(samples: int, seed: int, loudness: float) -> None:
    assert difference(loudness * noise(samples, seed), window_seconds=2) < TOLERANCE


@given(missing=st.integers(0, 1_000))
def test_equal_where_the_clip_nears_the_end_of_the_window(missing: int) -> None:
    assert difference(chirp(32_000 - missing), window_seconds=2) < TOLERANCE


@pytest.mark.parametrize("place", [0, 15_999, 31_639, 31_640, 31_799, 31_800, 31_999])
def test_equal_for_a_click(place: int) -> None:
    audio = torch.zeros(32_000)
    audio[place] = 1.0
    assert difference(audio, window_seconds=2) < TOLERANCE
    assert difference(audio[: place + 1], window_seconds=2) < TOLERANCE


@pytest.mark.parametrize("samples", [1, 5_000, 32_000])
def test_silence_is_the_floor(samples: int) -> None:
    assert difference(torch.zeros(samples), window_seconds=2) < TOLERANCE
    silence = log_mel(torch.zeros(samples), FeatureSpec.of(extractor(80, 2)))
    assert silence.unique().tolist() == [-1.5]  # (log10(1e-10) + 4) / 4


def test_what_lies_beyond_the_window_is_cut_as_the_extractor_cuts_it() -> None:
    assert difference(noise(40_000), window_seconds=2) < TOLERANCE


def test_only_frames_that_touch_the_clip_are_transformed() -> None:
    spec, lengths = FeatureSpec.of(extractor(80, 30)), []
    hook = _mel_spectrogram(spec).register_forward_pre_hook(
        lambda _, inputs: lengths.append(inputs[0].shape[-1])
    )
    log_mel(noise(16_000), spec)
    hook.remove()
    assert len(lengths) == 1
    assert lengths[0] < 17_000
