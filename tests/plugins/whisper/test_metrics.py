"""Error rates against jiwer."""

from __future__ import annotations

import doctest
import math
import pickle
from types import SimpleNamespace
from typing import Any

import jiwer
import pytest
import toolkit_whisper.labels
import toolkit_whisper.metrics
from hypothesis import assume, given
from hypothesis import strategies as st
from toolkit_whisper.metrics import ErrorRates, Normalise
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from toolkit import Loss, Scored

NAMES = ["wer", "cer", "wer_raw", "cer_raw"]
WORDS = st.sampled_from(
    ["the", "The", "cat", "cat's", "colour", "hmm", "ü", "日本", "20", "twenty", "-", "  "]
)
SENTENCES = st.lists(WORDS, max_size=6).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=5)


def lower(text: str, language: str) -> str:
    return text.lower().strip()


def rates(pairs: list[tuple[str, str]], normalise: Any = lower, language: str = "en") -> dict[str, float]:
    made = ErrorRates(normalise)
    for prediction, reference in pairs:
        batch = {"languages": [language]}
        made.update(Scored(Loss(0, 0), batch, [prediction], [reference]))  # type: ignore[arg-type]
    return made.compute()


def normalise_of(spellings: Any = None) -> Normalise:
    return Normalise(SimpleNamespace(english_spelling_normalizer=spellings))


@given(PAIRS)
def test_equal_to_jiwer(pairs: list[tuple[str, str]]) -> None:
    english = EnglishTextNormalizer({"colour": "color"})

    def normalise(text: str, language: str) -> str:
        return str(english(text)).strip()

    predictions, references = ([pair[side] for pair in pairs] for side in (0, 1))
    plain = [[english(text) for text in texts] for texts in (references, predictions)]
    assume(any(text.strip() for text in plain[0]))
    found = rates(pairs, normalise)
    assert found["wer_raw"] == pytest.approx(jiwer.wer(references, predictions))
    assert found["cer_raw"] == pytest.approx(jiwer.cer(references, predictions))
    assert found["wer"] == pytest.approx(jiwer.wer(*plain))
    assert found["cer"] == pytest.approx(jiwer.cer(*plain))


def test_by_hand() -> None:
    pairs = [("a bat sat", "The cat sat"), ("", "on"), ("a mat now", "a mat")]
    assert rates(pairs) == {
        "wer": 4 / 6,  # the>a, cat>bat, on deleted, now inserted
        "wer_raw": 4 / 6,
        "cer": (3 + 1 + 2 + 4) / (11 + 2 + 5),  # "the">"a", c>b, "on", " now"
        "cer_raw": (3 + 1 + 2 + 4) / (11 + 2 + 5),
    }


@given(PAIRS, PAIRS)
def test_merging_is_counting_together(mine: list[tuple[str, str]], others: list[tuple[str, str]]) -> None:
    made, other = ErrorRates(lower), ErrorRates(lower)
    for rates_, pairs in ((made, mine), (other, others)):
        rates_.add(*zip(*pairs, strict=True), ["en"] * len(pairs))
    made.merge(pickle.loads(pickle.dumps(other)))
    assert made.compute() == pytest.approx(rates(mine + others), nan_ok=True)


def test_without_reference_words_there_is_no_rate() -> None:
    assert all(math.isnan(value) for value in rates([]).values())
    found = rates([("well", "hmm")], normalise_of())
    assert math.isnan(found["wer"])
    assert found["wer_raw"] == 1.0


def test_an_empty_reference_counts_by_its_insertions() -> None:
    found = rates([("oh well", "hmm"), ("yes", "yes")], normalise_of())
    assert found["wer"] == 2.0


def test_names_and_direction() -> None:
    assert list(ErrorRates(lower).compute()) == NAMES
    assert ErrorRates.higher_is_better is False


@pytest.mark.parametrize(
    ("language", "expected"),
    [("en", "it is 20 dollars color"), ("de", "it s twenty dollars colour"), ("ja", "i t s t w e n")],
)
def test_the_normaliser_is_that_of_the_language(language: str, expected: str) -> None:
    normalise = pickle.loads(pickle.dumps(normalise_of({"colour": "color"})))
    text = normalise("It's twenty dollars, (um) COLOUR!", language)
    assert text.replace("$20", "20 dollars").startswith(expected)


def test_letters_count_where_words_have_no_spaces() -> None:
    """One letter of six is wrong, as written without spaces; by words everything is."""
    pairs = [("我 喜欢猫。", "我喜欢狗"), ("你好", "你好")]
    found = rates(pairs, normalise_of(), "zh")
    assert found == {"wer": 1 / 6, "cer": 1 / 6, "wer_raw": 2 / 2, "cer_raw": 3 / 6}
    assert rates(pairs, normalise_of(), "de")["wer"] == 2 / 2


def test_each_row_counts_by_its_own_language() -> None:
    made = ErrorRates(normalise_of())
    made.add(["two", "我喜欢猫", "dos"], ["2", "我喜欢狗", "2"], ["en", "zh", "es"])
    assert made.compute()["wer"] == (0 + 1 + 1) / (1 + 4 + 1)


@pytest.mark.parametrize("module", [toolkit_whisper.labels, toolkit_whisper.metrics])
def test_worked_examples(module: Any) -> None:
    outcome = doctest.testmod(module)
    assert outcome.attempted
    assert not outcome.failed
