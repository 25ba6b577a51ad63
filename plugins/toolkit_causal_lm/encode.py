"""A row in tokens: which of them count, what is asked and what is to be answered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from toolkit import DataError, ModelError
from toolkit_causal_lm.chat import encode_chat, end_of_turn, plain_template, tokens
from toolkit_causal_lm.rows import Chat, Completion, Shape
from toolkit_causal_lm.settings import CausalLMSettings

MOST_TOKENS = 2048
"""Of a sequence, where the settings say nothing and the model takes more."""


@dataclass(frozen=True)
class Encoded:
    """One row.

    Attributes:
        ids: all tokens.
        counts: for each whether it is learnt; the first never is, for nothing foretells it.
        asked: the tokens that a generated answer goes on from.
        answer: the text that should come then.
    """

    ids: list[int]
    counts: list[bool]
    asked: list[int]
    answer: str


class Encode:
    """`(shape) -> Encoded`, by a tokenizer that `toolkit_causal_lm.model.load` has prepared."""

    def __init__(self, tokenizer: Any, settings: CausalLMSettings) -> None:
        complete(tokenizer)
        self.tokenizer, self.settings = tokenizer, settings
        self.prefix = prefix_of(tokenizer)
        turn = end_of_turn(tokenizer)
        self.ends = {tokenizer.eos_token_id} | ({turn} if turn is not None else set())
        self.max_length = settings.max_length or min(tokenizer.model_max_length, MOST_TOKENS)

    def __call__(self, shape: Shape) -> Encoded:
        """The row's tokens, however many.

        Raises:
            DataError: the chat template does not go with the row.
        """
        if isinstance(shape, Chat):
            encoded = self._chat(shape)
        elif isinstance(shape, Completion):
            encoded = self._completion(shape)
        else:
            ids = self._ended([*self.prefix, *self._without_prefix(shape.text)])
            half = max(1, len(ids) // 2)
            encoded = Encoded(ids, [True] * len(ids), ids[:half], self._text(ids[half:]))
        everything = self.settings.loss_on == "all"
        counts = [place > 0 and (everything or one) for place, one in enumerate(encoded.counts)]
        return replace(encoded, counts=counts)

    def _chat(self, chat: Chat) -> Encoded:
        everything = self.settings.loss_on == "all"
        ids, spans, asked = encode_chat(self.tokenizer, chat.messages, self.ends, everything)
        counts = [any(start <= place < stop for start, stop in spans) for place in range(len(ids))]
        last = max(place for place, turn in enumerate(chat.messages) if turn["role"] == "assistant")
        return Encoded(ids, counts, asked, chat.messages[last]["content"].strip())

    def _completion(self, row: Completion) -> Encoded:
        """The prompt is tokenised alone, as it is when an answer to it is asked for."""
        prompt = [*self.prefix, *self._without_prefix(row.prompt)] if row.prompt else self.prefix
        whole = [*self.prefix, *self._without_prefix(row.prompt + row.completion)]
        if whole[: len(prompt)] != prompt:  # a token would lie across
            whole = [*prompt, *tokens(self.tokenizer, row.completion)]
        ids = self._ended(whole)
        counts = [place >= len(prompt) for place in range(len(ids))]
        return Encoded(ids, counts, prompt, row.completion.strip())

    def prompt(self, text: str) -> list[int]:
        """A text to go on from, in tokens."""
        return [*self.prefix, *self._without_prefix(text)]

    def _without_prefix(self, text: str) -> list[int]:
        """A text's tokens, less those that the tokenizer would put before it if it says them itself."""
        ids, length = tokens(self.tokenizer, text), len(self.prefix)
        return ids[length:] if length and ids[:length] == self.prefix else ids

    def _ended(self, ids: list[int]) -> list[int]:
        end = self.tokenizer.eos_token_id
        return ids if ids[-1:] == [end] else [*ids, end]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def complete(tokenizer: Any) -> None:
    """Give the tokenizer a padding and a chat template where it has none.

    Raises:
        ModelError: it has no end token, or its template is none.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no end token, so no text would ever end",
            hint='say which it is in tokenizer_config.json: "eos_token": "…"',
        )
    if tokenizer.pad_token_id is None:
        # Padding is told from text by length alone, so the end may stand for it and is learnt all the same.
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        tokenizer.chat_template = plain_template(tokenizer)
    template = tokenizer.chat_template
    if not isinstance(template.get("default") if isinstance(template, dict) else template, str):
        raise ModelError(
            f"the tokenizer has no chat template that is a text: {template!r:.60}",
            hint="of several in tokenizer_config.json, name one `default`",
        )


def prefix_of(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text, most often one token or none."""
    bare, whole = tokens(tokenizer, "a"), list(tokenizer("a").input_ids)
    found = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
    return whole[: next(found, 0)]


@dataclass(frozen=True)
class Piece:
    """A sequence the model gets: its tokens, and for each what is to be learnt, -100 for nothing."""

    ids: list[int]
    labels: list[int]


IGNORED = -100


def fitted(encoded: Encoded, max_length: int, too_long: str) -> list[Piece]:
    """The row as sequences of at most `max_length` tokens, each with something to learn.

    Split, each begins with the last token of the one before, so that every token is learnt once.

    Raises:
        DataError: nothing is left to learn, or a row that is too long shall be dropped.
    """
    length = len(encoded.ids)
    if length > max_length and too_long == "drop":
        raise DataError(
            f"the row makes {length} tokens, more than {max_length}",
            hint="--set causal-lm.too_long=truncate or split, or a larger causal-lm.max_length",
        )
    starts = range(0, length - 1, max_length - 1) if too_long == "split" else [0]
    pieces = [_piece(encoded, start, start + max_length) for start in starts]
    pieces = [piece for piece in pieces if any(label != IGNORED for label in piece.labels)]
    if not pieces:
        where = f"among the first {max_length} of its {length} tokens" if length > max_length else "in it"
        raise DataError(f"there is nothing to learn {where}", hint="causal-lm.loss_on, causal-lm.max_length")
    return pieces


def _piece(encoded: Encoded, start: int, stop: int) -> Piece:
    ids, counts = encoded.ids[start:stop], [False, *encoded.counts[start + 1 : stop]]
    labels = [token if counted else IGNORED for token, counted in zip(ids, counts, strict=True)]
    return Piece(ids, labels)
