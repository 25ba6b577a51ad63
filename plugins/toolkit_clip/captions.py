"""Captions as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from toolkit import DataError

MOST_CHARACTERS = 100_000
"""Of a caption: a tokenizer takes some hundred bytes for each, and cannot be told to stop."""


def captions_of(value: Any) -> list[str]:
    """The captions of a row's image: one, or several in a list.

    >>> captions_of(" A cat. "), captions_of(["A cat.", "Felix"])
    (['A cat.'], ['A cat.', 'Felix'])

    Raises:
        DataError: there is none, or one is empty or no text.
    """
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list | tuple) or not all(isinstance(one, str) for one in captions):
        raise DataError(
            f"the caption is no text: {value!r:.60}", hint="give a text, or a list of texts for one image"
        )
    if not captions or not all(one.strip() for one in captions):
        raise DataError(
            "the caption is empty" if len(captions) < 2 else "one of the captions is empty",
            hint="say what is to be seen, or take it out",
        )
    if (longest := max(map(len, captions))) > MOST_CHARACTERS:
        raise DataError(
            f"the caption has {longest:,} characters, more than {MOST_CHARACTERS:,}",
            hint="say it in a sentence; models read some dozen words",
        )
    if any("\ud800" <= char <= "\udfff" for one in captions for char in one):
        raise DataError(
            "the caption holds half a character (a lone surrogate)", hint="mend it, or take it out"
        )
    return [one.strip() for one in captions]


class Captions:
    """Texts to tokens and to padded batches, as the model was trained to read them."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.most: int = tokenizer.model_max_length
        self.masked = "attention_mask" in tokenizer.model_input_names

    def tokens(self, caption: str) -> list[int]:
        """With start and end; what is longer than the model reads is cut before the end, as CLIP does."""
        ids: list[int] = self.tokenizer(caption, truncation=True, max_length=self.most).input_ids
        return ids

    def length(self, caption: str) -> int:
        """How many tokens there would be if nothing were cut."""
        return len(self.tokenizer(caption, verbose=False).input_ids)

    def batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`input_ids` (T, tokens) int64, padded; `attention_mask` beside it, 1 where there is text.

        A model that reads no mask, as SigLIP, is always given texts of full length.
        """
        longest = max(map(len, sequences)) if self.masked else self.most
        padding = [self.tokenizer.pad_token_id] * longest
        ids = torch.tensor([[*one, *padding[len(one) :]] for one in sequences])
        if not self.masked:
            return {"input_ids": ids}
        mask = pad_sequence([torch.ones(len(one), dtype=torch.long) for one in sequences], batch_first=True)
        return {"input_ids": ids, "attention_mask": mask}
