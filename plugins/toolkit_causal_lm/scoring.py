"""A batch of an evaluation: its loss, and answers to some of its rows."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

from toolkit import Batch, Loss, Scored
from toolkit_causal_lm.generate import generate
from toolkit_causal_lm.loss import logits_and_targets
from toolkit_causal_lm.settings import CausalLMSettings

SHOWN = 3
"""Rows of an evaluation that are answered to be shown, where no metric needs more."""


class Evaluate:
    """`(model, batch) -> Scored`, for one evaluation: `predictions` are generated, of the first rows or of all.

    No logits are kept: the batch's `right` says how many of its targets were the likeliest tokens.
    """

    def __init__(self, tokenizer: Any, settings: CausalLMSettings, every_row: bool) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.every_row, self.answered = every_row, 0

    def __call__(self, model: Any, batch: Batch) -> Scored:
        totals, right = [], 0
        for logits, targets in logits_and_targets(model, batch):
            totals.append(cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(dim=-1) == targets).sum())
            del logits
        loss = Loss(torch.stack(totals).sum(), count=batch["num_targets"])
        wanted = len(batch["asked"]) if self.every_row else SHOWN - self.answered
        asked, references = batch["asked"][:wanted], batch["references"][:wanted]
        self.answered += len(asked)
        texts = generate(model, self.tokenizer, asked, self.settings) if asked else []
        return Scored(loss, {**batch, "right": right}, predictions=texts, references=references)
