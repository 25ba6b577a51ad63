"""One raw row made ready: its text in tokens."""

from __future__ import annotations

from typing import Any

from toolkit import Row
from toolkit_causal_lm.encode import Encode, fitted
from toolkit_causal_lm.rows import Chat, shape_of
from toolkit_causal_lm.settings import CausalLMSettings


class Prepare:
    """`pieces` are the sequences that the model gets, most often one; `asked` and `answer` are there to be generated.

    `asked` is a list of tokens, `answer` the text that should follow them.
    """

    def __init__(self, tokenizer: Any, settings: CausalLMSettings) -> None:
        self.encode, self.settings = Encode(tokenizer, settings), settings

    def __call__(self, row: Row) -> Row:
        """Tokenise.

        Raises:
            DataError: there is no usable text, or nothing to learn from it.
        """
        shape = shape_of(row, self.settings.as_chat)
        encoded = self.encode(shape)
        return {
            "row_id": row.get("row_id"),
            "pieces": fitted(encoded, self.encode.max_length, self.settings.too_long),
            "is_chat": isinstance(shape, Chat),
            "asked": encoded.asked,
            "answer": encoded.answer,
        }
