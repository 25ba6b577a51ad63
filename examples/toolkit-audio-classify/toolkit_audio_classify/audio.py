"""Recordings in any file that libsndfile reads, or in memory, as one channel of one length."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from toolkit import DataError
from torch import Tensor
from torch.nn.functional import pad
from torchaudio.functional import resample


def load(source: Any, rate: int, seconds: float) -> Tensor:
    """The beginning of a recording.

    Args:
        source: a path; `{"bytes", "path"}`, as sets of the hub have it; or `{"array", "sampling_rate"}`, where the
            array is (samples,), of floats.
        rate: to resample to, in Hz.
    Returns:
        (samples,) float32, `seconds` long, the channels averaged; what the recording lacks is silence.
    Raises:
        DataError: it cannot be read, holds no samples, or samples that are no numbers.
    """
    try:
        found, own_rate = _beginning(source, seconds)
    except Exception as error:  # decoders fail in as many ways as files are broken
        raise _unreadable(error) from error
    if not len(found) or not np.isfinite(found).all():
        raise DataError("the recording holds no samples, or some that are no numbers", hint="record it again")
    samples = round(seconds * rate)
    audio = resample(torch.from_numpy(found), own_rate, rate)[:samples]
    return pad(audio, (0, samples - len(audio)))


def duration(source: Any) -> float:
    """How long a recording lasts in seconds, by its header.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if _is_in_memory(source):
            return len(source["array"]) / int(source["sampling_rate"])
        return float(soundfile.info(_file(source)).duration)
    except Exception as error:
        raise _unreadable(error) from error


def _beginning(source: Any, seconds: float) -> tuple[Any, int]:
    """Its first samples (samples,) float32, at its own rate, in Hz."""
    if _is_in_memory(source):
        rate = int(source["sampling_rate"])
        return np.array(source["array"][: round(seconds * rate)], dtype=np.float32), rate
    with soundfile.SoundFile(_file(source)) as file:
        block = file.read(round(seconds * file.samplerate), dtype="float32", always_2d=True)
        return block.mean(axis=1), file.samplerate


def _is_in_memory(source: Any) -> bool:
    return isinstance(source, Mapping) and source.get("array") is not None


def _file(source: Any) -> Any:
    """What soundfile can open."""
    if isinstance(source, Mapping):
        return io.BytesIO(source["bytes"]) if source.get("bytes") else _file(source["path"])
    if not isinstance(source, str | Path):  # soundfile would take a number for a file that is open already
        raise TypeError(f"expected a file, found {type(source).__name__}")
    return source


def _unreadable(error: Exception) -> DataError:
    return DataError(f"the recording cannot be read: {error}", hint="give WAV, FLAC, OGG or MP3")
