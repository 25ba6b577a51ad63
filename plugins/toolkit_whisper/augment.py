"""Random changes to a clip in training; all randomness comes from the row's generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit import Row
from toolkit_whisper.audio import resampled
from toolkit_whisper.settings import WhisperSettings


@dataclass(frozen=True)
class Augment:
    """`(row, generator) -> row`: another speed, then noise; and where the spectrogram will be masked.

    Speed changes pitch and length together. A clip that it would make longer than the window keeps its own.
    `masks` (masks, 2) is added: numbers in [0, 1) that `mask` takes for widths and places, those in time first.

    Source: Ko et al. 2015 for speed; Park et al. 2019, SpecAugment, for the masks.
    """

    settings: WhisperSettings

    def __call__(self, row: Row, generator: torch.Generator) -> Row:
        audio, settings = row["audio"], self.settings
        if settings.speed:
            faster = at_speed(audio, _drawn_speed(settings.speed, generator))
            audio = faster if len(faster) <= row["window"] else audio
        if settings.noise_snr_db is not None:
            low, high = settings.noise_snr_db
            snr_db = low + (high - low) * float(torch.rand((), generator=generator))
            audio = with_noise(audio, snr_db, generator)
        masks = torch.rand((settings.time_masks + settings.frequency_masks, 2), generator=generator)
        return {**row, "audio": audio, "masks": masks}


def changes_anything(settings: WhisperSettings) -> bool:
    masks = settings.time_masks + settings.frequency_masks
    return bool(settings.speed or masks) or settings.noise_snr_db is not None


def at_speed(audio: Tensor, hundredths: int) -> Tensor:
    """`audio` (samples,) played at `hundredths` of its speed: 200 is twice as fast, half as long."""
    return audio if hundredths == 100 else resampled(audio, hundredths, 100)


def with_noise(audio: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """`audio` (samples,) with white noise whose power is exactly `snr_db` below that of the whole clip.

    Silence stays as it is.
    """
    noise = torch.randn(len(audio), generator=generator)
    powers = audio.double().square().mean() / noise.double().square().mean()
    return audio + noise * (powers / 10 ** (snr_db / 10)).sqrt().float()


def mask(features: Tensor, frames: int, masks: Tensor, settings: WhisperSettings) -> Tensor:
    """`features` with some stretches of time and some bands set to the clip's mean, as in SpecAugment.

    A mask is from 0 to its full width, each as likely, and lies anywhere within the clip. Whisper's features, unlike
    the paper's, do not have the mean 0, so it is taken. Time is not warped.

    Args:
        features: (mels, frames of the window).
        frames: that the clip touches, which come first.
        masks: see `Augment`.
    """
    result, clip = features.clone(), features[:, :frames]
    mean = clip.mean()
    most_frames = round(100 * settings.time_mask_seconds)
    for place, (width, start) in enumerate(masks.tolist()):
        if place < settings.time_masks:
            result[:, _stretch(width, start, most_frames, frames)] = mean
        else:
            bands = _stretch(width, start, settings.frequency_mask_bands, len(clip))
            result[bands, :frames] = mean
    return result


def _stretch(width: float, start: float, most: int, room: int) -> slice:
    """From 0 to `most` places among `room`, of two numbers in [0, 1)."""
    length = min(int(width * (most + 1)), room)
    first = int(start * (room - length + 1))
    return slice(first, first + length)


def _drawn_speed(share: float, generator: torch.Generator) -> int:
    """In hundredths: ratios of small numbers, which cost little to resample by."""
    most = round(100 * share)
    return 100 + int(torch.randint(-most, most + 1, (), generator=generator))
