"""The plugin's section of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from toolkit import RecipeError

ENDINGS = (".flac", ".mp3", ".ogg", ".opus", ".wav")


@dataclass(frozen=True)
class ExtrasSettings:
    """Which groups are told apart, and what noise is mixed in.

    Attributes:
        lengths: seconds at which clips are divided by length: (2, 5) makes `wer_0_2s`, `wer_2_5s` and `wer_5s_up`.
        speakers: at most so many speakers are told one by one, those with the most rows.
        min_rows: fewer rows than that say little of a speaker, who is counted among the others then.
        noise: a folder of recordings of noise, searched with all folders in it; null mixes none in.
        snr_db: least and most distance of the noise from the sound, in dB.
    """

    lengths: tuple[float, ...] = (2.0, 5.0, 10.0)
    speakers: int = 10
    min_rows: int = 5
    noise: str | None = None
    snr_db: tuple[float, float] = (5.0, 20.0)


def faults(settings: ExtrasSettings) -> list[RecipeError]:
    """What is wrong with them, all together."""
    found = []
    if not settings.lengths or any(low >= high for low, high in pairwise((0.0, *settings.lengths))):
        what = f"extras.lengths: expected seconds that grow, found {list(settings.lengths)}"
        found.append(RecipeError(what, hint="for example [2, 5, 10]"))
    for name, value in (("speakers", settings.speakers), ("min_rows", settings.min_rows)):
        if value < 1:
            what = f"extras.{name}: must be at least 1, found {value}"
            found.append(RecipeError(what, hint="leave it out for the default"))
    low, high = settings.snr_db
    if not low <= high:
        what = f"extras.snr_db: must be the least, then the most, found [{low:g}, {high:g}]"
        found.append(RecipeError(what, hint=f"write [{high:g}, {low:g}]"))
    if settings.noise is not None and not recordings_in(settings.noise):
        what = f"extras.noise: there are no recordings in '{settings.noise}'"
        found.append(RecipeError(what, hint=f"name a folder that holds {', '.join(ENDINGS)}"))
    return found


def recordings_in(folder: str) -> Sequence[Path]:
    """All recordings below a folder, in an order that is the same everywhere."""
    return sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in ENDINGS)
