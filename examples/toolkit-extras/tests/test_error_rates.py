"""Rates of groups against jiwer's, and sums against the `wer` they are parts of."""

from __future__ import annotations

import doctest
import math
import random
from typing import Any

import jiwer
import pytest
from toolkit import Recipe
from toolkit_whisper.metrics import ErrorRates
from toolkit_whisper.metrics import Normalise as NormaliseOfWhisper
from transformers import WhisperTokenizer

import toolkit_extras.error_rates
from toolkit_extras.error_rates import ErrorRatesByGroup, Normalise
from toolkit_extras.settings import ExtrasSettings

WORDS = ["Turn", "the", "lamp", "ON,", "it's", "twenty-one", "o'clock;", "colour", "Müller's", "café"]
LETTERS = ["今天", "天气", "很好"]
Said = tuple[str, str, str, float, str | None]


def said(count: int) -> list[Said]:
    """(heard, said, language, seconds, speaker) of clips of 0 to 12 s."""
    draw = random.Random(5)
    found = []
    for _ in range(count):
        language = draw.choice(["en", "de", "zh"])
        words = draw.choices(LETTERS if language == "zh" else WORDS, k=draw.randint(1, 8))
        heard = [word for word in words if draw.random() < 0.8] + draw.choices(WORDS, k=draw.randint(0, 2))
        speaker = draw.choice(["ada", "bob", "cleo", "dan", None, " "])
        found.append((" ".join(heard), " ".join(words), language, draw.uniform(0, 12), speaker))
    return found


def counted(
    rows: list[Said], settings: ExtrasSettings, normalise: Any = lambda text, _: text
) -> ErrorRatesByGroup:
    rates = ErrorRatesByGroup(normalise, settings)
    for row in rows:
        rates.add(*row)
    return rates


def rate(rows: list[Said]) -> Any:
    return pytest.approx(jiwer.wer([row[1] for row in rows], [row[0] for row in rows]))


def test_groups_have_the_rates_of_jiwer() -> None:
    rows = said(60)
    assert counted(rows, ExtrasSettings(lengths=(3, 7.5), speakers=9, min_rows=1)).compute() == {
        "wer_0_3s": rate([row for row in rows if row[3] < 3]),
        "wer_3_7.5s": rate([row for row in rows if 3 <= row[3] < 7.5]),
        "wer_7.5s_up": rate([row for row in rows if row[3] >= 7.5]),
        **{
            f"wer_speaker_{who}": rate([row for row in rows if row[4] == who])
            for who in ("ada", "bob", "cleo", "dan")
        },
        "wer_no_speaker": rate([row for row in rows if row[4] in (None, " ")]),
    }


def test_groups_add_up_to_the_wer_of_whisper() -> None:
    rows = said(60)
    sample = Recipe.load("whisper-asr").sample or {}
    tokenizer = WhisperTokenizer.from_pretrained(sample["model"])
    whole = ErrorRates(NormaliseOfWhisper(tokenizer))
    whole.add(*zip(*[row[:3] for row in rows], strict=True))
    parts = counted(rows, ExtrasSettings(), Normalise(tokenizer))
    for groups in (parts.by_length, [*parts.by_speaker.values()]):
        assert sum(group.edits for group in groups) == whole.edits["wer"]
        assert sum(group.words for group in groups) == whole.lengths["wer"]
        assert sum(group.rows for group in groups) == len(rows)


def test_speakers_with_few_rows_and_those_beyond_the_limit_are_others() -> None:
    rows = [("a", "a b", "en", 1.0, who) for who in ["ada"] * 4 + ["bob"] * 3 + ["cleo"] * 3 + ["dan"]]
    rows += [("", "x", "en", 1.0, None)]
    names = {"wer_0_2s": 12 / 23}  # eleven clips with one edit in two words, and one with one in one

    found = counted(rows, ExtrasSettings(speakers=2, min_rows=1)).compute()
    told = {"wer_speaker_ada": 0.5, "wer_speaker_bob": 0.5}
    assert found == {**names, **told, "wer_other_speakers": 0.5, "wer_no_speaker": 1.0}
    found = counted(rows, ExtrasSettings(speakers=9, min_rows=4)).compute()
    assert list(found) == ["wer_0_2s", "wer_speaker_ada", "wer_other_speakers", "wer_no_speaker"]


def test_where_nobody_is_named_only_lengths_are_told() -> None:
    rows: list[Said] = [("a", "a b", "en", 11.0, None)]
    assert counted(rows, ExtrasSettings()).compute() == {"wer_10s_up": 0.5}


def test_names_are_known_before_there_are_rows() -> None:
    found = counted([], ExtrasSettings()).compute()
    assert list(found) == ["wer_0_2s", "wer_2_5s", "wer_5_10s", "wer_10s_up"]
    assert all(math.isnan(value) for value in found.values())


def test_what_two_processes_counted_adds_up() -> None:
    rows, settings = said(60), ExtrasSettings(min_rows=1)
    one, other = counted(rows[:13], settings), counted(rows[13:], settings)
    one.merge(other)
    assert one.compute() == counted(rows, settings).compute()


def test_the_example_of_the_docstring() -> None:
    assert doctest.testmod(toolkit_extras.error_rates) == (0, 4)
