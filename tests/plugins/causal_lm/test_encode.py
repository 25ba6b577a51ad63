from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from toolkit_causal_lm.encode import Encode, Encoded, fitted
from toolkit_causal_lm.rows import Completion, Text
from toolkit_causal_lm.settings import CausalLMSettings

from tests.plugins.causal_lm.conftest import nano_tokenizer
from toolkit import DataError


def encoded(shape: Any, bos: bool = False, **settings: Any) -> tuple[str, str]:
    """The whole, and what of it counts."""
    tokenizer = nano_tokenizer(bos=bos)
    found = Encode(tokenizer, CausalLMSettings(**settings))(shape)
    counted = [token for token, counts in zip(found.ids, found.counts, strict=True) if counts]
    return tokenizer.decode(found.ids), tokenizer.decode(counted)


def test_completions_count_with_their_end() -> None:
    assert encoded(Completion("2+2=", "4")) == ("2+2=4</s>", "4</s>")
    assert encoded(Completion("2+2=", "4"), bos=True) == ("<s>2+2=4</s>", "4</s>")
    assert encoded(Completion("2+2=", "4"), loss_on="all") == ("2+2=4</s>", "+2=4</s>")
    assert encoded(Completion("", "ab"), bos=True) == ("<s>ab</s>", "ab</s>")
    assert encoded(Completion("", "ab")) == ("ab</s>", "b</s>")  # nothing foretells the first token


def test_texts_count_whole() -> None:
    assert encoded(Text("abc")) == ("abc</s>", "bc</s>")
    assert encoded(Text("abc"), bos=True) == ("<s>abc</s>", "abc</s>")


def test_ends_and_beginnings_are_not_doubled() -> None:
    assert encoded(Text("<s>abc</s>"), bos=True)[0] == "<s>abc</s>"
    assert encoded(Completion("<s>a", "b</s>"), bos=True)[0] == "<s>ab</s>"


class Merging:
    """A nano tokenizer in which `=4` is one token."""

    def __new__(cls) -> Any:
        tokenizer = nano_tokenizer()
        tokenizer.add_tokens(["=4"])
        return tokenizer


def test_no_token_lies_across_prompt_and_completion() -> None:
    """A prompt is tokenised alone when an answer is asked for; so it is in training."""
    tokenizer = Merging()
    assert len(tokenizer("2+2=4").input_ids) == 4
    found = Encode(tokenizer, CausalLMSettings())(Completion("2+2=", "4"))
    assert [tokenizer.decode([token]) for token in found.ids] == ["2", "+", "2", "=", "4", "</s>"]
    assert found.counts == [False] * 4 + [True] * 2


def row(length: int, learnt_from: int = 1) -> Encoded:
    return Encoded([*range(100, 100 + length)], [place >= learnt_from for place in range(length)], [], "")


def test_what_fits_stays() -> None:
    for too_long in ("truncate", "split", "drop"):
        (piece,) = fitted(row(5), 5, too_long)
        assert (piece.ids, piece.labels) == ([100, 101, 102, 103, 104], [-100, 101, 102, 103, 104])


def test_truncated_to_the_first_tokens() -> None:
    (piece,) = fitted(row(8), 5, "truncate")
    assert piece.ids == [100, 101, 102, 103, 104]
    with pytest.raises(DataError, match="nothing to learn among the first 5 of its 8 tokens"):
        fitted(row(8, learnt_from=5), 5, "truncate")


def test_dropped() -> None:
    with pytest.raises(DataError, match="the row makes 8 tokens, more than 5"):
        fitted(row(8), 5, "drop")


@pytest.mark.parametrize("length", range(2, 24))
@pytest.mark.parametrize("room", [2, 3, 5, 8])
def test_split_so_that_each_token_is_learnt_once(length: int, room: int) -> None:
    pieces = fitted(row(length), room, "split")
    assert all(2 <= len(piece.ids) <= room for piece in pieces)
    learnt = [label for piece in pieces for label in piece.labels if label != -100]
    assert learnt == [*range(101, 100 + length)]
    for one, two in pairwise(pieces):
        assert one.ids[-1] == two.ids[0]


def test_pieces_with_nothing_to_learn_are_left_out() -> None:
    (piece,) = fitted(row(8, learnt_from=6), 5, "split")
    assert piece.ids == [104, 105, 106, 107]
    assert piece.labels == [-100, -100, 106, 107]


def test_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="there is nothing to learn in it"):
        fitted(row(1), 5, "truncate")


def test_most_tokens_of_a_sequence() -> None:
    tokenizer = nano_tokenizer()
    tokenizer.model_max_length = 64
    assert Encode(tokenizer, CausalLMSettings()).max_length == 64
    assert Encode(tokenizer, CausalLMSettings(max_length=20)).max_length == 20
    tokenizer.model_max_length = 10**30  # what transformers has for "unknown"
    assert Encode(tokenizer, CausalLMSettings()).max_length == 2048
