"""Sound in any file that libsndfile reads, or in memory, as one channel of float32 samples."""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torchaudio
from torch import Tensor

from toolkit import DataError

BLOCK_SAMPLES = 1 << 18
ENDLESS = 1 << 62
"""About as many samples as libsndfile finds in a stream written without its length, and cannot read."""
CLAIMED = re.compile(r"(?:data|SSND|Data Size|Riff size|riff) *: (\d+) \(should be (\d+)\)")
"""What libsndfile notes of a WAV, RF64, W64, AIFF or AU whose header promises more bytes than there are."""
UNKNOWN = (0x7FFFF000, 0x80000000, *range(0xFFFFFF00, 1 << 32))
"""Lengths that programs write in front of a stream, as its length is not known yet."""
RATES_HZ = range(1_000, 768_001)
"""What a header may claim. More would make a resampling kernel of many gigabytes."""
MAX_DENOMINATOR = 1_000
"""Of the ratio of two rates, to bound the kernel: exact for usual rates, 0.05 % off at worst for any."""

LOUDEST = 1e6
"""Of samples, whose usual range is from -1 to 1. The power of much larger ones is no number any more."""

ROUNDED_SECONDS = 0.1
"""By which a row's `end` may lie after the end of its file."""


_RECORD = "bring the recording back from a copy, or take its row out"


@dataclass(frozen=True)
class Recording:
    """Sound that is being read.

    Attributes:
        name: what errors call it.
        rate: in Hz.
        samples: how many it, or the part of it that was asked for, says it has, a channel; there are never more.
        blocks: (samples,) float32, its channels averaged, in order.
    """

    name: str
    rate: int
    samples: int
    blocks: Iterator[Tensor]

    @property
    def seconds(self) -> float:
        return self.samples / self.rate


def name_of(source: Any) -> str:
    """What errors call a row's audio."""
    if isinstance(source, Mapping):
        source = source.get("path") or "audio without a path"
    return str(source) if isinstance(source, str | Path) else f"audio of type {type(source).__name__}"


@contextmanager
def opened(source: Any, start: float = 0.0, end: float | None = None) -> Iterator[Recording]:
    """The recording that a row's `audio` holds, or a part of it.

    Args:
        source: a path; `{"bytes", "path"}` as in undecoded rows of the hub; or `{"array", "sampling_rate"}`,
            where the array is (samples,) or (channels, samples), of floats or of full-range signed integers.
        start, end: of the part, in seconds; up to the end by default. Of a file, nothing else is read.
    Raises:
        DataError: missing, empty, cut off, or not audio, or without that part; as the blocks are read: broken, or with
            NaN or infinities.
    """
    name = name_of(source)
    if isinstance(source, Mapping) and source.get("array") is not None:
        yield _in_memory(name, source, start, end)
        return
    with _sound_file(name, source) as file:
        _check_rate(name, file.samplerate)
        if file.frames >= ENDLESS:
            raise DataError(f"{name} does not say how long it is", hint="write it to a file, not as a stream")
        if end is None:
            _check_whole(name, file)
        part = _part(name, file.frames, file.samplerate, start, end)
        yield Recording(name, file.samplerate, len(part), _blocks(name, file, part))


def load(source: Any, rate: int, max_seconds: float, start: float = 0.0, end: float | None = None) -> Tensor:
    """A whole clip.

    Args:
        source, start, end: see `opened`.
        rate: to resample to, in Hz.
        max_seconds: the longest clip allowed; a longer one is not read at all.
    Returns:
        (samples,) float32, in [-1, 1] unless the file itself goes beyond.
    Raises:
        DataError: cannot be read, holds no samples, or is too long.
    """
    with opened(source, start, end) as recording:
        check_length(recording, max_seconds)
        return resampled(torch.cat(list(recording.blocks)), recording.rate, rate)


def check_length(recording: Recording, max_seconds: float) -> None:
    """Raise `DataError` if the recording is longer than `max_seconds`."""
    if recording.seconds > max_seconds:
        raise DataError(
            f"{recording.name} lasts {recording.seconds:.6g} s, longer than the window of {max_seconds:g} s",
            hint="cut it into pieces, each with its text: rows with `start` and `end`, in seconds",
        )


def resampled(audio: Tensor, rate: int, to: int) -> Tensor:
    """`audio` (samples,) brought from `rate` to `to` Hz by windowed sinc interpolation."""
    ratio = Fraction(rate, to).limit_denominator(MAX_DENOMINATOR)
    result: Tensor = torchaudio.functional.resample(audio, ratio.numerator, ratio.denominator)
    samples = -(-len(audio) * to // rate)
    return torch.nn.functional.pad(result, (0, samples - len(result)))


# ---- files ------------------------------------------------------------------------------------------------


def _sound_file(name: str, source: Any) -> Any:
    try:
        file = soundfile.SoundFile(_readable(name, source))
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: a name that ends in .raw
        raise _no_audio(name, _reason(error)) from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror}", hint="see to the file's rights") from None
    if file.format == "RAW":  # anything is, to libsndfile, whose name ends in .au, .snd, .vox or .gsm
        file.close()
        raise _no_audio(name)
    return file


def _no_audio(name: str, reason: str = "") -> DataError:
    return DataError(
        f"{name} is not audio that can be read{reason}", hint="give WAV, FLAC, OGG or MP3, for example"
    )


def _readable(name: str, source: Any) -> Any:
    """What soundfile can open: an existing file with something in it, or bytes."""
    if isinstance(source, Mapping):
        data = source.get("bytes")
        if data is not None and not data:
            raise DataError(f"{name} is empty", hint=_RECORD)
        held = io.BytesIO(data) if isinstance(data, bytes) else None
        source = source.get("path") if data is None else held
    if isinstance(source, io.BytesIO):
        return source
    if not isinstance(source, str | Path):
        raise DataError(
            f"{name} cannot be read",
            hint="expected a path, {'bytes': ..., 'path': ...} or {'array': ..., 'sampling_rate': ...}",
        )
    if not os.path.isfile(source):  # noqa: PTH113 (pathlib raises where a name is too long)
        missing = "is no file" if os.path.lexists(source) else "does not exist"
        raise DataError(f"{name} {missing}", hint="check the path; it counts from the folder you are in")
    if not Path(source).stat().st_size:
        raise DataError(f"{name} is empty", hint=_RECORD)
    return str(source)


def _blocks(name: str, file: Any, part: range) -> Iterator[Tensor]:
    """Some of the file's samples, block by block, at least one."""
    size, samples = max(1, BLOCK_SAMPLES // file.channels), 0
    try:
        if part.start:
            file.seek(part.start)
        while len(block := file.read(min(size, len(part) - samples), dtype="float32", always_2d=True)):
            samples += len(block)
            yield _checked(name, block.mean(axis=1))
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name} breaks off{_reason(error)}", hint=_RECORD) from None
    if not samples:
        raise no_samples(name)


def no_samples(name: str) -> DataError:
    return DataError(f"{name} holds no samples", hint=_RECORD)


def _reason(error: Exception) -> str:
    """What libsndfile says, where it says anything."""
    said = getattr(error, "error_string", "").rstrip(".").lower()
    return f" ({said})" if said else ""


def _checked(name: str, samples: Any) -> Tensor:
    if not np.isfinite(samples).all():
        raise DataError(f"{name} holds samples that are no numbers (NaN or infinite)", hint=_RECORD)
    loudest = np.abs(samples).max(initial=0)
    if loudest > LOUDEST:
        raise DataError(
            f"{name} holds samples of up to {loudest:.3g}, where 1 is full volume",
            hint="write it again, its samples from -1 to 1, or as whole numbers",
        )
    return torch.from_numpy(np.ascontiguousarray(samples))


def _part(name: str, samples: int, rate: int, start: float, end: float | None) -> range:
    """Which of the samples lie between two times; an end that is rounded up a little is the file's own.

    Raises:
        DataError: there are none, or the file is shorter.
    """
    lasts = samples / rate
    last = lasts if end is None else end
    if (start and start >= lasts) or (end is not None and end > lasts + ROUNDED_SECONDS):
        raise DataError(
            f"{name} lasts {lasts:.6g} s, the row's part of it is from {start:g} to {last:.6g} s",
            hint="`start` and `end` are seconds within the file; rename these columns if they mean something else",
        )
    part = range(round(start * rate), samples if end is None else min(round(end * rate), samples))
    if end is not None and not part:
        raise DataError(
            f"{name}: the row's part of it ends at {end:g} s and starts at {start:g} s",
            hint="`end` has to be greater than `start`, in seconds",
        )
    return part


def _check_rate(name: str, rate: int) -> None:
    if rate not in RATES_HZ:
        raise DataError(
            f"{name} says its sampling rate is {rate} Hz", hint="rates from 1 to 768 kHz can be read"
        )


def _check_whole(name: str, file: Any) -> None:
    """Raise `DataError` if the header promises more sound than there is: the text would be of all of it."""
    noted = CLAIMED.search(file.extra_info)
    if noted is None:
        return
    claimed, there = map(int, noted.groups())
    lasts = file.frames / file.samplerate
    promised = lasts * claimed / there if there else math.inf
    if claimed not in UNKNOWN and promised > lasts + ROUNDED_SECONDS:
        raise DataError(f"{name} is cut off: {lasts:.6g} s of {promised:.6g} s are there", hint=_RECORD)


# ---- memory -----------------------------------------------------------------------------------------------


def _in_memory(name: str, source: Mapping[str, Any], start: float, end: float | None) -> Recording:
    rate, array = source.get("sampling_rate"), source["array"]
    if not rate:
        raise DataError(f"{name} holds an array without its sampling_rate", hint="add 'sampling_rate', in Hz")
    try:
        rate, array = int(rate), np.asarray(array)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"{name} holds no array of numbers with its sampling_rate: {error}",
            hint="expected an array, and Hz",
        ) from None
    _check_rate(name, rate)
    samples = _floats(name, array)
    if samples.ndim == 2:
        samples = samples.mean(axis=0)
    if samples.ndim != 1 or not samples.size:
        raise DataError(
            f"{name} holds no samples: its array has the shape {array.shape}",
            hint="expected (samples,) or (channels, samples)",
        )
    part = _part(name, len(samples), rate, start, end)
    return Recording(name, rate, len(part), iter([_checked(name, samples[part.start : part.stop])]))


def _floats(name: str, array: Any) -> Any:
    if np.issubdtype(array.dtype, np.signedinteger):
        return (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(
            f"{name} holds an array of {array.dtype}, not of floats or signed integers",
            hint="convert it: array.astype('float32'), in [-1, 1]",
        )
    return array.astype(np.float32)
