"""Prepared rows as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from toolkit import Batch, Row
from toolkit_causal_lm.encode import IGNORED, Encode, Piece
from toolkit_causal_lm.packing import evened
from toolkit_causal_lm.settings import CausalLMSettings


class Collator:
    """Sequences of tokens, padded on the right, or packed."""

    def __init__(self, tokenizer: Any, settings: CausalLMSettings) -> None:
        self.padding: int = tokenizer.pad_token_id
        packs = (
            getattr(tokenizer, "rows_may_be_packed", False) if settings.packing is None else settings.packing
        )
        self.room = Encode(tokenizer, settings).max_length if packs else None

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """Pad or pack.

        Args:
            rows: as `Prepare` makes them.
        Returns:
            `input_ids` (sequences, tokens) int64, as long as the longest; `labels` (sequences, tokens) int64, the
            tokens to be learnt in their own places, all others -100; maybe `attention_mask` (sequences, tokens)
            int64, or where rows are packed maybe `position_ids` (sequences, tokens) int64, which begin anew with each
            row; `asked`, lists of tokens, and `references`, the texts that should follow them.
        """
        pieces = [piece for row in rows for piece in row["pieces"]]
        sequences = self._packed(pieces) if self.room is not None else self._padded(pieces)
        return {
            **sequences,
            "num_targets": sum(label != IGNORED for piece in pieces for label in piece.labels),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
            "asked": [row["asked"] for row in rows],
            "references": [row["answer"] for row in rows],
            "work": {"tokens": float(sum(len(piece.ids) for piece in pieces))},
        }

    def _padded(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        lengths = [[1] * len(piece.ids) for piece in pieces]
        return {**self._tokens([[piece] for piece in pieces]), "attention_mask": _filled(lengths, 0)}

    def _packed(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        """No mask: with one, attention would no longer go by the positions, and reach from row to row."""
        assert self.room is not None
        places = evened([len(piece.ids) for piece in pieces], self.room)
        sequences = [[pieces[place] for place in one] for one in places]
        width = max(sum(len(piece.ids) for piece in one) for one in sequences)
        positions = []
        for one in sequences:
            parts = [len(piece.ids) for piece in one]
            parts.append(width - sum(parts))
            positions.append([place for part in parts for place in range(part)])
        return {**self._tokens(sequences), "position_ids": torch.tensor(positions)}

    def _tokens(self, sequences: Sequence[Sequence[Piece]]) -> dict[str, Tensor]:
        ids = [[token for piece in one for token in piece.ids] for one in sequences]
        labels = [[label for piece in one for label in piece.labels] for one in sequences]
        return {"input_ids": _filled(ids, self.padding), "labels": _filled(labels, IGNORED)}


def _filled(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
