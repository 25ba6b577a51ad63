"""Synthetic speech for the samples, from eSpeak NG through ctypes: a tool of the build, never of the toolkit."""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import espeakng_loader
import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

SAMPLING_RATE = 16_000  # Hz, of everything this module returns

# from speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_CHARS_UTF8 = 1
_POS_CHARACTER = 1
_RATE, _PITCH, _RANGE = 1, 3, 4

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


@dataclass(frozen=True)
class Voice:
    """One speaker: an eSpeak voice with an optional variant, as in `en-us+f2`, and how it speaks."""

    name: str
    words_per_minute: int = 175
    pitch: int = 50  # 0 to 100
    pitch_range: int = 50  # 0 (monotone) to 100


class Engine:
    """eSpeak NG. The library keeps global state, so take the one that `engine` returns.

    Raises:
        RuntimeError: the library could not be started.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._rate = self._library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, data, 0)
        if self._rate <= 0:
            raise RuntimeError(f"eSpeak NG could not be started with the data in {data.decode()}")
        self._chunks: list[np.ndarray] = []
        self._callback = _Callback(self._receive)  # a reference must live as long as the library may call it
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0  # go on

    def say(self, text: str, voice: Voice) -> np.ndarray:
        """Speak a sentence.

        Returns:
            (samples,), float32 in [-1, 1] at 16 kHz, without the silence before and after.
        Raises:
            ValueError: eSpeak has no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice.name!r}")
        settings = {_RATE: voice.words_per_minute, _PITCH: voice.pitch, _RANGE: voice.pitch_range}
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath and jitter are drawn from it
        self._chunks.clear()
        utf8 = text.encode() + b"\0"
        self._library.espeak_Synth(
            utf8, ctypes.c_size_t(len(utf8)), 0, _POS_CHARACTER, 0, _CHARS_UTF8, None, None
        )
        spoken = torch.from_numpy(np.concatenate(self._chunks).astype(np.float32) / 32768)
        return trim(resample(spoken, self._rate, SAMPLING_RATE).clamp(-1, 1).numpy())


@cache
def engine() -> Engine:
    """The engine of this process."""
    return Engine()


def trim(audio: np.ndarray, threshold: float = 0.01, margin_seconds: float = 0.05) -> np.ndarray:
    """Cut what is below the threshold (of full scale) at both ends of `audio` (samples,), but for a margin."""
    loud = np.flatnonzero(np.abs(audio) > threshold)
    margin = int(margin_seconds * SAMPLING_RATE)
    return audio[max(loud[0] - margin, 0) : loud[-1] + margin]


def save(path: Path, audio: np.ndarray, bits: int) -> None:
    """Write `audio` (samples,) in [-1, 1] at 16 kHz as 16-bit FLAC of which only the upper `bits` are used.

    FLAC stores no bits that are zero throughout: fewer bits, smaller files, and what is read back is exact.
    """
    step = 2.0 ** (1 - bits)
    soundfile.write(path, (audio / step).round() * step, SAMPLING_RATE, format="FLAC", compression_level=1.0)
