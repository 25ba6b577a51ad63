"""A whole plugin over a tiny LLaMA, used to test the core without any modality's package.

Rows are `ids`: token numbers. A row whose ids are empty is bad.
"""

from __future__ import annotations

from typing import Any

PLUGIN = '''
"""Token numbers in, next token numbers out."""
from dataclasses import dataclass
from toolkit import Column, DataError, Loss, Metric, Scored, hookimpl, load_model

@dataclass(frozen=True)
class TinySettings:
    dropout: float = 0.0

@hookimpl
def toolkit_settings():
    return TinySettings

@hookimpl
def toolkit_columns():
    return [Column("ids", usual=("tokens",))]

@hookimpl
def toolkit_model(recipe):
    def load():
        from transformers import LlamaConfig, LlamaForCausalLM
        if recipe.model.name != "tiny":
            return load_model(recipe.model, LlamaForCausalLM), None
        return LlamaForCausalLM(LlamaConfig(
            vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            attention_dropout=recipe.settings(TinySettings).dropout, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )), None
    return load

@hookimpl
def toolkit_prepare():
    def prepare(row):
        if not row["ids"]:
            raise DataError(f"row {row['row_id']} has no ids")
        return {"ids": row["ids"]}
    return prepare

@hookimpl
def toolkit_collator():
    import torch
    def collate(rows):
        width = max(len(row["ids"]) for row in rows)
        ids = torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in rows])
        labels = ids.masked_fill(ids == 0, -100)
        return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels,
                "num_targets": int((labels[:, 1:] != -100).sum()),
                "row_id": torch.tensor([row["row_id"] for row in rows]), "work": {"tokens": float(ids.numel())}}
    return collate

@hookimpl
def toolkit_loss():
    from torch.nn.functional import cross_entropy
    def loss(model, batch):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        total = cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
        return Loss(total, batch["num_targets"], report={"width": float(logits.shape[1])}, outputs=logits)
    return loss

class Accuracy(Metric):
    higher_is_better = True

    def __init__(self):
        self.right, self.all = 0, 0

    def update(self, scored):
        labels = scored.batch["labels"][:, 1:]
        self.right += int((scored.loss.outputs.argmax(-1) == labels)[labels != -100].sum())
        self.all += int((labels != -100).sum())

    def merge(self, other):
        self.right, self.all = self.right + other.right, self.all + other.all

    def compute(self):
        return {"accuracy": self.right / self.all if self.all else float("nan")}

@hookimpl
def toolkit_metrics():
    return [Accuracy()]

@hookimpl
def toolkit_predict(recipe, model, processor):
    import torch
    def predict(inputs):
        ids = [torch.tensor([[int(part) for part in one.split()]]) for one in inputs]
        return [int(model(input_ids=one).logits[0, -1].argmax()) for one in ids]
    return predict
'''

LOOK = '''
"""What can be said of rows of the tiny plugin before they are prepared, and of prepared ones."""
from toolkit import DataError, hookimpl

@hookimpl
def toolkit_inspect():
    def look(row):
        facts = {"tokens": len(row["ids"]), "begins": str(row["ids"][:1])}
        if not row["ids"]:
            error = DataError(f"row {row['row_id']} has no ids")
            error.facts = facts
            raise error
        return facts
    return look

@hookimpl
def toolkit_show():
    return lambda row: " ".join(f"<{token}>" for token in row["ids"])
'''


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of 3 to 9 tokens that count upwards modulo 13, so that there is something to learn."""
    starts = [(7 * number + seed) % 13 for number in range(count)]
    return [
        {"ids": [3 + (start + place) % 13 for place in range(3 + number % 7)]}
        for number, start in enumerate(starts)
    ]
