"""A plugin that keeps every law: a tiny LLaMA that goes on with rows of token numbers. The others here begin with it."""

from dataclasses import dataclass

from toolkit import Column, DataError, Loss, Metric, Scored, hookimpl, load_model

TOKENS = 16


@dataclass(frozen=True)
class SoundSettings:
    most_tokens: int = 12


@hookimpl
def toolkit_settings():
    return SoundSettings


@hookimpl
def toolkit_columns():
    return [Column("ids", usual=("tokens",))]


@hookimpl
def toolkit_model(recipe):
    def load():
        from transformers import LlamaConfig, LlamaForCausalLM

        if recipe.model.name != "tiny":
            return load_model(recipe.model, LlamaForCausalLM), None
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=TOKENS, attention_dropout=0.1, **sizes, **ends)), None

    return load


@hookimpl
def toolkit_row_length():
    return lambda row: float(len(checked(row)))


@hookimpl
def toolkit_prepare(recipe):
    most = recipe.settings(SoundSettings).most_tokens
    return lambda row: {"ids": checked(row)[:most]}


def checked(row):
    ids = row["ids"]
    if not isinstance(ids, list) or len(ids) < 2 or not all(type(one) is int and 0 < one < TOKENS for one in ids):
        raise DataError(f"ids: expected two or more tokens, found {ids!r:.40}", hint="numbers from 1 to 15")
    return ids


@hookimpl
def toolkit_augment():
    import torch

    def one_token_changed(row, generator):
        place = int(torch.randint(len(row["ids"]), (), generator=generator))
        token = int(torch.randint(3, TOKENS, (), generator=generator))
        return {**row, "ids": [*row["ids"][:place], token, *row["ids"][place + 1 :]]}

    return one_token_changed


@hookimpl
def toolkit_collator():
    import torch

    def collate(rows):
        """`input_ids`, `attention_mask` (rows, tokens) int64, padded with 0; `labels` (rows, tokens) int64, padded with -100."""
        width = max(len(row["ids"]) for row in rows)
        ids = torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in rows])
        labels = ids.masked_fill(ids == 0, -100)
        return {
            "input_ids": ids,
            "attention_mask": (ids != 0).long(),
            "labels": labels,
            "num_targets": int((labels[:, 1:] != -100).sum()),
            "row_id": torch.tensor([row["row_id"] for row in rows]),
        }

    return collate


def summed(model, batch):
    """Cross-entropy in nats, and the logits."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum"), logits


@hookimpl
def toolkit_loss():
    def loss(model, batch):
        total, logits = summed(model, batch)
        return Loss(total, batch["num_targets"], outputs=logits)

    return loss


@hookimpl
def toolkit_evaluate_batch():
    def evaluate(model, batch):
        total, logits = summed(model, batch)
        likeliest = [row.tolist() for row in logits.argmax(dim=-1)]
        return Scored(Loss(total, batch["num_targets"], outputs=logits), batch, predictions=likeliest)

    return evaluate


class Confidence(Metric):
    """`confidence`: the probability that is given to a target, on average."""

    higher_is_better = True

    def __init__(self):
        self.given, self.all = 0.0, 0

    def update(self, scored):
        given, every = counts(scored)
        self.given, self.all = self.given + given, self.all + every

    def merge(self, other):
        self.given, self.all = self.given + other.given, self.all + other.all

    def compute(self):
        return {"confidence": self.given / self.all if self.all else float("nan")}


def counts(scored):
    """The sum of the probabilities that are given to the targets, and how many there are."""
    labels = scored.batch["labels"][:, 1:]
    given = scored.loss.outputs.softmax(dim=-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return float(given[labels != -100].sum()), int((labels != -100).sum())


@hookimpl
def toolkit_metrics():
    return [Confidence()]


@hookimpl
def toolkit_predict(model):
    import torch

    def predict(inputs):
        ids = [torch.tensor([tokens_in(one)]) for one in inputs]
        return [int(model(input_ids=one).logits[0, -1].argmax()) for one in ids]

    return predict


def tokens_in(text):
    parts = text.split()
    if not parts or not all(part.isdecimal() and int(part) < TOKENS for part in parts):
        raise DataError(f"expected tokens, found {text!r:.40}", hint="numbers below 16, such as '3 4 5'")
    return [int(part) for part in parts]
