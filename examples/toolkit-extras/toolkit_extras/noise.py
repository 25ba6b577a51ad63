"""Recorded noise mixed into a clip, at a signal-to-noise ratio that is what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch
from toolkit import DataError, Row
from torch import Tensor
from torchaudio.functional import resample

RATE = 16_000
"""Of the clips, in Hz: all Whispers hear at this rate."""
_BAD = "take it out of the folder, or bring it back from a copy"


@dataclass(frozen=True)
class MixNoise:
    """`(row, generator) -> row`: a stretch of one of the recordings is mixed into `audio` (samples,).

    The ratio is drawn first, evenly within `snr_db`, then the recording, then where in it the stretch begins.
    """

    recordings: Sequence[Path]
    snr_db: tuple[float, float]

    def __call__(self, row: Row, generator: torch.Generator) -> Row:
        ratio, which, begins = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        low, high = self.snr_db
        noise = stretch(self.recordings[int(which * len(self.recordings))], len(row["audio"]), begins)
        return {**row, "audio": mixed(row["audio"], noise, low + (high - low) * ratio)}


def mixed(signal: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """`signal` with `noise`, both (samples,), scaled so that 10·log10(P_signal / P_noise) is `snr_db`.

    P is the mean of the squared samples of the whole clip, pauses included. There is no such ratio where either is
    silent: the signal stays as it is then. The sum is not cut off where it leaves [-1, 1].

    >>> mixed(torch.tensor([3.0, -3.0]), torch.tensor([0.5, 0.5]), snr_db=20.0)  # P_signal 9, so P_noise 0.09
    tensor([ 3.3000, -2.7000])
    """
    signal_power, noise_power = (float(one.double().square().mean()) for one in (signal, noise))
    if not signal_power or not noise_power:
        return signal
    return signal + noise * math.sqrt(signal_power / noise_power / 10 ** (snr_db / 10))


def stretch(recording: Path, samples: int, begins: float) -> Tensor:
    """A part of a recording, its channels averaged; no more of the file is read.

    Args:
        samples: how many there shall be, at 16 kHz; a recording that is shorter is repeated.
        begins: where it begins, as a fraction in [0, 1) of the places that it can begin at.
    Returns:
        (samples,) float32.
    Raises:
        DataError: the recording cannot be read, or is empty.
    """
    try:
        with soundfile.SoundFile(recording) as file:
            wanted = -(-samples * file.samplerate // RATE)
            file.seek(int(begins * (max(file.frames - wanted, 0) + 1)))
            block, rate = file.read(wanted, dtype="float32", always_2d=True), file.samplerate
    except soundfile.LibsndfileError as error:
        raise DataError(
            f"extras.noise: {recording} cannot be read: {error.error_string}", hint=_BAD
        ) from error
    if not len(block):
        raise DataError(f"extras.noise: {recording} is empty", hint=_BAD)
    found: Tensor = resample(torch.from_numpy(block.mean(axis=1)), rate, RATE)
    return found.repeat(-(-samples // len(found)))[:samples]
