"""The ratio that is measured is the one that was drawn, and the generator alone says which."""

from __future__ import annotations

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from toolkit import DataError

import toolkit_extras.noise
from toolkit_extras.noise import MixNoise, mixed, stretch
from toolkit_extras.settings import recordings_in

RATE = 16_000


def speech(seconds: float = 1.0) -> torch.Tensor:
    """Something loud, then a pause."""
    sound = torch.randn(round(seconds * RATE), generator=torch.Generator().manual_seed(2))
    return torch.cat([0.1 * sound, torch.zeros(RATE // 4)])


def decibels(signal: torch.Tensor, noise: torch.Tensor) -> float:
    """10·log10(P_signal / P_noise), by the definition."""
    powers = [sum(float(x) ** 2 for x in one.double()) / len(one) for one in (signal, noise)]
    return 10 * math.log10(powers[0] / powers[1])


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 40.0])
def test_the_ratio_is_what_it_says(noise: Path, snr_db: float) -> None:
    clip = speech()
    for recording in recordings_in(str(noise)):
        heard = mixed(clip, stretch(recording, len(clip), 0.4), snr_db)
        assert decibels(clip, heard - clip) == pytest.approx(snr_db, abs=1e-3)


def test_the_ratio_is_the_one_that_was_drawn(noise: Path) -> None:
    clip, change = speech(), MixNoise(recordings_in(str(noise)), (3.0, 30.0))
    found = []
    for seed in range(40):
        heard = change({"audio": clip}, torch.Generator().manual_seed(seed))["audio"]
        first = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)[0]
        found.append(decibels(clip, heard - clip))
        assert found[-1] == pytest.approx(3 + 27 * float(first), abs=1e-3)
    assert 3 <= min(found) < 6
    assert 27 < max(found) <= 30


def test_the_generator_alone_decides(noise: Path) -> None:
    clip, change = speech(), MixNoise(recordings_in(str(noise)), (5.0, 20.0))
    row = {"audio": clip.clone(), "text": "kept"}
    one, again, other = (change(row, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one["audio"], again["audio"])
    assert not torch.equal(one["audio"], other["audio"])
    assert torch.equal(row["audio"], clip)
    assert one["text"] == "kept"


def test_silence_has_no_ratio() -> None:
    clip, silence = speech(), torch.zeros(RATE + RATE // 4)
    assert torch.equal(mixed(clip, silence, 10.0), clip)
    assert torch.equal(mixed(silence, clip, 10.0), silence)


def test_a_stretch_is_read_from_anywhere_and_resampled(tmp_path: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000)  # 2 s at 48 kHz
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, 0 * tone], axis=1), 48_000, subtype="FLOAT")
    found = stretch(tmp_path / "tone.wav", RATE, begins=0.5)  # from 0.5 to 1.5 s
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * (torch.arange(RATE) / RATE + 0.5))
    assert found.shape == (RATE,)
    assert (found - expected)[100:-100].abs().max() < 1e-2


def test_a_recording_that_is_short_is_repeated(tmp_path: Path) -> None:
    samples = np.arange(1, 5, dtype=np.float32) / 8
    soundfile.write(tmp_path / "short.wav", samples, RATE, subtype="FLOAT")
    for begins in (0.0, 0.999):
        assert (stretch(tmp_path / "short.wav", 10, begins) * 8).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]


def test_a_recording_that_is_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    for name in ("broken.wav", "empty.wav"):
        with pytest.raises(DataError, match=name):
            stretch(tmp_path / name, 10, 0.0)


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(toolkit_extras.noise) == (0, 1)
