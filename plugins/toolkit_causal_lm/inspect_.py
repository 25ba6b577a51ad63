"""Rows looked at: what a raw one promises, and what the model sees of a prepared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolkit import DataError, Row
from toolkit_causal_lm.chat import end_of_turn, plain_template
from toolkit_causal_lm.encode import IGNORED, Encode, Encoded, Piece, fitted
from toolkit_causal_lm.rows import Chat, shape_of
from toolkit_causal_lm.settings import CausalLMSettings

TOKENS_SHOWN = 60
"""Of the beginning of a row, and as many of its end."""


class Inspect:
    """`(row) -> facts`: its shape, its tokens and those that count, and whether it can be used or why not."""

    def __init__(self, tokenizer: Any, settings: CausalLMSettings) -> None:
        self.encode, self.settings = Encode(tokenizer, settings), settings
        self.is_plain = tokenizer.chat_template == plain_template(tokenizer)

    def __call__(self, row: Row) -> Mapping[str, float | str]:
        """The facts of a row.

        Raises:
            DataError: `Prepare` would refuse it; with `facts`.
        """
        facts: dict[str, float | str] = {"usable": "no: not a usable text, completion or chat"}
        try:
            shape = shape_of(row, self.settings.as_chat)
            facts |= {
                "shape": type(shape).__name__.lower(),
                "usable": "no: the chat template does not go with it",
            }
            encoded = self.encode(shape)
            facts |= {"tokens": len(encoded.ids), "tokens that count": sum(encoded.counts)}
            facts["usable"] = f"no: too long, or nothing to learn in {self.encode.max_length} tokens"
            fitted(encoded, self.encode.max_length, self.settings.too_long)
        except DataError as error:
            error.facts = facts
            raise
        notes = self._notes(encoded, isinstance(shape, Chat))
        return {**facts, "usable": "yes", **({"noted": "; ".join(notes)} if notes else {})}

    def _notes(self, encoded: Encoded, is_chat: bool) -> list[str]:
        most, notes = self.encode.max_length, []
        if len(encoded.ids) > most:
            how = "split into several sequences" if self.settings.too_long == "split" else "truncated"
            notes.append(f"longer than {most} tokens, {how}")
        if is_chat and self.is_plain:
            notes.append(
                "the tokenizer has no chat template, so turns are written as 'User: …', 'Assistant: …'"
            )
        return notes


class Show:
    """`(prepared row) -> text`: its tokens, those that count in brackets, and what is peculiar about the ends."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, row: Row) -> str:
        pieces: list[Piece] = row["pieces"]
        length = sum(len(piece.ids) for piece in pieces)
        count = sum(label != IGNORED for piece in pieces for label in piece.labels)
        written = " | ".join(self._written(piece) for piece in pieces)
        notes = "".join(f"; {note}" for note in self._notes(row["is_chat"]))
        return f"{length} tokens, those in brackets count ({count}): {written}{notes}"

    def _written(self, piece: Piece) -> str:
        words = [self._word(*pair) for pair in zip(piece.ids, piece.labels, strict=True)]
        left_out = len(words) - 2 * TOKENS_SHOWN
        if left_out > 0:
            words[TOKENS_SHOWN:-TOKENS_SHOWN] = [f" … {left_out} tokens … "]
        return "".join(words)

    def _word(self, token: int, label: int) -> str:
        word = self.tokenizer.decode([token]).replace("\n", "\\n")
        return f"[{word}]" if label != IGNORED else word

    def _notes(self, is_chat: bool) -> list[str]:
        tokenizer, notes = self.tokenizer, []
        if tokenizer.pad_token_id == tokenizer.eos_token_id:
            notes.append(
                f"padding is {tokenizer.eos_token} too, and is told from the end of a text by length alone"
            )
        if is_chat and tokenizer.chat_template == plain_template(tokenizer):
            notes.append("the tokenizer has no chat template: one is made up")
        elif is_chat and end_of_turn(tokenizer) is None:
            notes.append(
                f"the chat template ends no turn: {tokenizer.eos_token} is put after the last answer"
            )
        return notes
