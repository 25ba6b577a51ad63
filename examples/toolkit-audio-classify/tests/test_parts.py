"""Recordings of every kind, and scores against numbers worked out by hand."""

from __future__ import annotations

import doctest
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from toolkit import DataError

import toolkit_audio_classify.metrics
from toolkit_audio_classify.audio import duration, load
from toolkit_audio_classify.metrics import ClassScores

RATE = 8000
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)  # 1 s


# ---- recordings -------------------------------------------------------------------------------------------------


def test_a_recording_is_cut_or_filled_to_one_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", TONE, RATE, subtype="FLOAT")
    cut, filled = (load(str(tmp_path / "tone.wav"), RATE, seconds) for seconds in (0.25, 1.5))
    assert torch.equal(cut, torch.from_numpy(TONE[:2000]))
    assert torch.equal(filled, torch.from_numpy(np.append(TONE, np.zeros(4000, np.float32))))
    assert duration(str(tmp_path / "tone.wav")) == 1.0


def test_channels_are_averaged_and_rates_changed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "two.wav", np.stack([TONE, 0 * TONE], axis=1), RATE, subtype="FLOAT")
    audio = load(str(tmp_path / "two.wav"), 2 * RATE, 1.0)
    expected = 0.25 * torch.sin(2 * torch.pi * 440 * torch.arange(2 * RATE) / (2 * RATE))
    assert audio.shape == (16_000,)
    assert (audio - expected)[500:-500].abs().max() < 1e-3


def test_files_bytes_and_arrays_are_the_same(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "tone.wav", TONE, RATE, subtype="FLOAT")
    sources: list[Any] = [tmp_path / "tone.wav", {"path": str(tmp_path / "tone.wav"), "bytes": None}]
    sources += [{"bytes": (tmp_path / "tone.wav").read_bytes()}, {"array": TONE, "sampling_rate": RATE}]
    for source in sources:
        assert torch.equal(load(source, RATE, 1.0), torch.from_numpy(TONE))
        assert duration(source) == 1.0


@pytest.mark.parametrize(
    "source", [None, 0, "none.wav", {}, {"array": [], "sampling_rate": RATE}, {"array": TONE}]
)
def test_what_is_no_recording_is_the_datas_fault(source: Any) -> None:
    with pytest.raises(DataError):
        load(source, RATE, 1.0)


def test_samples_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="no numbers"):
        load({"array": [0.1, math.nan], "sampling_rate": RATE}, RATE, 1.0)


# ---- scores -----------------------------------------------------------------------------------------------------

#       predicted as:   a  b  c
TABLE = {"a": dict(zip("abc", (5, 1, 0), strict=True)),
         "b": dict(zip("abc", (2, 3, 1), strict=True)),
         "c": dict(zip("abc", (0, 0, 8), strict=True))}  # fmt: skip
PAIRS = [(ours, true) for true, row in TABLE.items() for ours, count in row.items() for _ in range(count)]


def test_scores_are_those_of_the_table() -> None:
    scores = ClassScores()
    scores.add(*zip(*PAIRS, strict=True))
    # a: precision 5/7, recall 5/6, so 10/13; b: 3/4 and 3/6, so 6/10; c: 8/9 and 8/8, so 16/17
    assert scores.compute() == {
        "accuracy": pytest.approx(16 / 20),
        "macro_f1": pytest.approx((10 / 13 + 6 / 10 + 16 / 17) / 3),
    }


def test_a_class_that_is_only_predicted_counts_and_has_no_f1() -> None:
    scores = ClassScores()
    scores.add(["dog", "cat"], ["dog", "dog"])
    assert scores.compute() == {"accuracy": 0.5, "macro_f1": pytest.approx((2 / 3 + 0) / 2)}


def test_parts_add_up_and_nothing_is_nan() -> None:
    whole, one, other = ClassScores(), ClassScores(), ClassScores()
    assert all(math.isnan(value) for value in whole.compute().values())
    whole.add(*zip(*PAIRS, strict=True))
    one.add(*zip(*PAIRS[13:], strict=True))
    other.add(*zip(*PAIRS[:13], strict=True))
    one.merge(other)
    assert one.compute() == whole.compute()


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(toolkit_audio_classify.metrics) == (0, 3)
