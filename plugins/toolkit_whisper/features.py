"""Log-mel features with torchaudio: `transformers.WhisperFeatureExtractor`'s, at a fraction of the work."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torchaudio
from torch import Tensor

from toolkit import ModelError, RecipeError

FLOOR = 1e-10
STEP_SECONDS, MARGIN_SECONDS = 1.0, 0.5
"""A fitted window is a whole number of steps, and ends in silence for at least the margin."""


@dataclass(frozen=True)
class FeatureSpec:
    """The window and the bands of a model, as its feature extractor states them.

    Attributes:
        rate: samples a second, in Hz.
        samples: of the window.
        mels: bands.
        n_fft: samples of one Fourier transform.
        hop: samples from one frame to the next.
        fits: whether a clip's window is as long as the clip asks for, and not always the whole one.
    """

    rate: int
    samples: int
    mels: int
    n_fft: int
    hop: int
    fits: bool = False

    @classmethod
    def of(cls, extractor: Any, audio_window: str | float | None = None) -> FeatureSpec:
        """That of a `transformers.WhisperFeatureExtractor`.

        Args:
            audio_window: `full`, `fit`, or seconds; None: what the extractor remembers.
        Raises:
            RecipeError: it is longer than the model's own.
        """
        window, samples = window_of(extractor, audio_window), extractor.n_samples
        if not isinstance(window, str):
            samples = _samples(window, extractor)
        return cls(
            rate=extractor.sampling_rate,
            samples=samples,
            mels=extractor.feature_size,
            n_fft=extractor.n_fft,
            hop=extractor.hop_length,
            fits=window == FIT,
        )

    @property
    def frames(self) -> int:
        return self.samples // self.hop

    @property
    def seconds(self) -> float:
        return self.samples / self.rate

    def frames_for(self, samples: int) -> int:
        """How many frames the window of a clip of so many samples has."""
        if not self.fits:
            return self.frames
        steps = math.ceil((samples / self.rate + MARGIN_SECONDS) / STEP_SECONDS)
        return min(self.frames, round(steps * STEP_SECONDS * self.rate) // self.hop)

    def touched(self, samples: int) -> int:
        """How many frames a clip of so many samples touches."""
        return min(self.frames, math.ceil((samples + self.n_fft // 2) / self.hop))


FULL, FIT = "full", "fit"


def window_of(extractor: Any, asked: str | float | None) -> str | float:
    """`full`, `fit`, or seconds: what is asked for, or what the model was trained with, as the extractor has it.

    Raises:
        ModelError: the extractor has what is no window.
    """
    if asked is not None:
        return asked
    remembered: str | float = getattr(extractor, "audio_window", FULL)
    is_number = isinstance(remembered, int | float) and not isinstance(remembered, bool)
    if remembered in (FULL, FIT) or (is_number and 1 <= float(remembered) < 1e6):
        return remembered
    raise ModelError(
        f"audio_window among the settings of the model's feature extractor is {remembered!r:.60}",
        hint="full, fit, or seconds, at least 1; or leave it out",
    )


def _samples(seconds: float, extractor: Any) -> int:
    """Those of a window of about so many seconds, a whole number of the encoder's positions."""
    if seconds > (own := extractor.n_samples / extractor.sampling_rate):
        raise RecipeError(
            f"whisper.audio_window: {seconds:g} s is longer than the model's own window of {own:g} s",
            hint="leave it out, or take `fit`",
        )
    position = 2 * int(extractor.hop_length)
    return round(seconds * int(extractor.sampling_rate) / position) * position


def log_mel(audio: Tensor, spec: FeatureSpec) -> Tensor:
    """The log-mel spectrogram of one clip, as if silence followed it up to the end of the window.

    Only the frames that touch the clip are transformed; those after it are the constant that silence gives.

    Args:
        audio: (samples,) float32 at `spec.rate`; what lies beyond the window is cut.
    Returns:
        (mels, frames of its window) float32: log10 of the power, at most 8 below its peak, plus 4, over 4. A frame is
        10 ms.
    Source: Radford et al. 2022, section 2.2.
    """
    touched = spec.touched(len(audio))
    # Unless the clip fills the window, this ends in zeros for as far as the transform mirrors its ends.
    samples = touched * spec.hop
    power = _mel_spectrogram(spec)(torch.nn.functional.pad(audio, (0, samples - len(audio))))
    loudness: Tensor = power[:, :touched].clamp(min=FLOOR).log10()  # (mels, touched)
    quietest = loudness.max() - 8
    silence = float((quietest.clamp(min=math.log10(FLOOR)) + 4) / 4)
    result = loudness.new_full((spec.mels, spec.frames_for(len(audio))), silence)
    result[:, :touched] = (torch.maximum(loudness, quietest) + 4) / 4
    return result


@functools.cache
def _mel_spectrogram(spec: FeatureSpec) -> Any:
    return torchaudio.transforms.MelSpectrogram(
        spec.rate,
        n_fft=spec.n_fft,
        hop_length=spec.hop,
        n_mels=spec.mels,
        norm="slaney",
        mel_scale="slaney",
    )
