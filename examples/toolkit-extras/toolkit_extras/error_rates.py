"""The word error rate of groups of clips: by how long they last, and by who speaks."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from rapidfuzz.distance import Levenshtein
from toolkit import Metric, Scored
from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from toolkit_extras.settings import ExtrasSettings

Normaliser = Callable[[str, str], str]
"""`(text, code of the language it is in) -> text`."""
OTHERS, NOBODY = "wer_other_speakers", "wer_no_speaker"
LETTERS_COUNT = ("zh", "ja", "th", "lo", "my", "yue")
"""Languages written without spaces between words, where each letter counts as one."""


class Normalise:
    """As the Whisper plugin does for `wer`, so that the groups add up to it.

    Source: Radford et al. 2022, appendix C.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.english = EnglishTextNormalizer(tokenizer.english_spelling_normalizer or {})
        self.basic, self.letters = BasicTextNormalizer(), BasicTextNormalizer(split_letters=True)

    def __call__(self, text: str, language: str) -> str:
        others = self.letters if language in LETTERS_COUNT else self.basic
        return str((self.english if language == "en" else others)(text))


@dataclass(frozen=True)
class Count:
    """Of some clips: how many, the edits from what was said to what was heard, and the words said."""

    rows: int = 0
    edits: int = 0
    words: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.rows + other.rows, self.edits + other.edits, self.words + other.words)

    @property
    def rate(self) -> float:
        return self.edits / self.words if self.words else float("nan")


class ErrorRatesByGroup(Metric):
    """`wer_0_2s` and so on, by length, and `wer_speaker_NAME` where rows say who speaks.

    Speakers beyond the settings' `speakers`, or with fewer than `min_rows` rows, are `wer_other_speakers` together,
    rows without a speaker `wer_no_speaker`. Of lengths and of speakers alike, each row is in just one group: the edits
    of the groups add up to those of `wer`, and so do the words. A clip of 2 s is in `wer_2_5s`.

        >>> rates = ErrorRatesByGroup(lambda text, language: text, ExtrasSettings(lengths=(2.0,), min_rows=1))
        >>> rates.add("turn it", "turn it on now", "en", seconds=1.5, speaker="ada")
        >>> rates.add("the lamp", "the lamp", "en", seconds=2.0, speaker="bob")
        >>> rates.compute()
        {'wer_0_2s': 0.5, 'wer_2s_up': 0.0, 'wer_speaker_ada': 0.5, 'wer_speaker_bob': 0.0}
    """

    higher_is_better = False

    def __init__(self, normalise: Normaliser, settings: ExtrasSettings) -> None:
        self.normalise, self.settings = normalise, settings
        self.by_length = [Count() for _ in range(len(settings.lengths) + 1)]
        self.by_speaker: dict[str, Count] = {}

    def update(self, scored: Scored) -> None:
        texts, languages = (scored.predictions, scored.references), scored.batch["languages"]
        columns = [scored.batch["columns"][name] for name in ("seconds", "speaker")]
        for row in zip(*texts, languages, *columns, strict=True):
            self.add(*row)

    def add(self, prediction: str, reference: str, language: str, seconds: float, speaker: Any) -> None:
        """Count one clip; `speaker` is a name or a number, or None or empty where nobody knows."""
        heard, said = (self.normalise(text, language).split() for text in (prediction, reference))
        count = Count(1, Levenshtein.distance(said, heard), len(said))
        name = "" if speaker is None else str(speaker).strip()
        self.by_length[bisect(self.settings.lengths, seconds)] += count
        self.by_speaker[name] = self.by_speaker.get(name, Count()) + count

    def merge(self, other: Self) -> None:
        self.by_length = [ours + theirs for ours, theirs in zip(self.by_length, other.by_length, strict=True)]
        for name, count in other.by_speaker.items():
            self.by_speaker[name] = self.by_speaker.get(name, Count()) + count

    def compute(self) -> dict[str, float]:
        """The rates of all groups that have rows; before there are any rows, the names of the lengths."""
        lengths = dict(zip(_names_of(self.settings.lengths), self.by_length, strict=True))
        groups = {**lengths, **self._speakers()}
        return {name: count.rate for name, count in groups.items() if count.rows or not self.by_speaker}

    def _speakers(self) -> dict[str, Count]:
        """The groups by speaker, those with the most rows first; none where no row names one."""
        named = {name: count for name, count in self.by_speaker.items() if name}
        if not named:
            return {}
        ranked = sorted(named, key=lambda name: (-named[name].rows, name))
        enough = [name for name in ranked if named[name].rows >= self.settings.min_rows]
        told = enough[: self.settings.speakers]
        groups = {f"wer_speaker_{name}": named[name] for name in told}
        others = sum((named[name] for name in ranked if name not in told), Count())
        return {**groups, OTHERS: others, NOBODY: self.by_speaker.get("", Count())}


def _names_of(lengths: tuple[float, ...]) -> Iterator[str]:
    """(2.0, 5.0) gives wer_0_2s, wer_2_5s, wer_5s_up."""
    for low, high in pairwise((0.0, *lengths)):
        yield f"wer_{low:g}_{high:g}s"
    yield f"wer_{lengths[-1]:g}s_up"
