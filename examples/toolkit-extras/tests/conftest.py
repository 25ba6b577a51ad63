"""Recordings of noise, and the sample of `whisper-asr` as rows that say who speaks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toolkit import Recipe

RATE = 16_000


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A folder with a hiss and, deeper, a hum."""
    folder = tmp_path / "noise"
    (folder / "machines").mkdir(parents=True)
    hiss = 0.3 * np.random.default_rng(1).standard_normal(3 * RATE)
    hum = 0.2 * np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE)
    soundfile.write(folder / "hiss.flac", hiss.clip(-1, 1), RATE)
    soundfile.write(folder / "machines" / "hum.wav", hum, RATE)
    return folder


@pytest.fixture
def rows() -> dict[str, list[dict[str, Any]]]:
    """The sample's rows by split; two speakers take turns, and every tenth row does not say who it is."""
    sample = Recipe.load("whisper-asr").sample or {}
    found = {}
    for split in ("train", "validation", "test"):
        folder = Path(sample["data"], split)
        with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
            found[split] = [
                {
                    "audio": str(folder / row["file_name"]),
                    "text": row["text"],
                    "speaker_id": None if number % 10 == 9 else ("ada", "bob")[number % 2],
                }
                for number, row in enumerate(csv.DictReader(file))
            ]
    return found
