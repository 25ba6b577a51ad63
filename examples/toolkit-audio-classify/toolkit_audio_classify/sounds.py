"""The sample's data: sounds that are computed, each when it is asked for, and are the same each time.

    python -m toolkit_audio_classify.sounds FOLDER

writes them as a folder such as recordings come in, to listen to and to predict from.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("beeps", "chirps", "hiss", "tone")
SIZES = {"train": 240, "validation": 40, "test": 80}
RATE, SECONDS = 16_000, 0.5


class Sounds(Sequence[dict[str, Any]]):
    """Rows of one split: `audio`, with its samples (samples,) float32 in [-1, 1], and `label`, the classes in turn."""

    def __init__(self, split: str) -> None:
        self.split, self.place = split, list(SIZES).index(split)

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        label = CLASSES[number % len(CLASSES)]
        array = sound(label, np.random.default_rng([self.place, number]))
        return {"audio": {"array": array, "sampling_rate": RATE}, "label": label}


def splits() -> dict[str, Sounds]:
    return {split: Sounds(split) for split in SIZES}


def sound(label: str, draw: np.random.Generator) -> Any:
    """A steady tone, one that beeps or chirps some ten times a second, or a hiss.

    Pitch, pace and loudness are drawn, and white noise lies 10 to 30 dB below each tone.

    Returns:
        (samples,) float32.
    """
    seconds = np.arange(round(RATE * SECONDS)) / RATE
    noise = draw.standard_normal(len(seconds))
    beat = seconds * draw.uniform(8, 12) % 1  # from 0 to 1, again and again
    hertz = draw.uniform(600, 1500) * (2**beat if label == "chirps" else np.ones_like(beat))
    tone = np.sqrt(2) * np.sin(2 * np.pi * np.cumsum(hertz) / RATE)  # of power 1, as the noise is
    if label == "beeps":
        tone *= beat < 0.5
    heard = noise if label == "hiss" else tone + noise * 10 ** (-draw.uniform(10, 30) / 20)
    return (heard / np.abs(heard).max() * draw.uniform(0.1, 0.9)).astype(np.float32)


def write(folder: Path) -> None:
    """All splits as WAV files, each beside its `metadata.csv`."""
    import soundfile

    for split, rows in splits().items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["file_name", "label"])
            for number, row in enumerate(rows):
                name = f"{row['label']}_{number}.wav"
                soundfile.write(folder / split / name, row["audio"]["array"], RATE)
                table.writerow([name, row["label"]])


if __name__ == "__main__":
    write(Path(sys.argv[1]))
