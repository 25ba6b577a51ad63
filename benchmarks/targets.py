"""Texts all of whose tokens are learnt: one step of a language model with LoRA, forward and backward.

The logits of so many targets are most of what a step holds. `transformers` has them all at once, as the model's own
loss does; `torch` computes them in chunks, by its `linear_cross_entropy`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Workload, measuring
from benchmarks.text import LORA, chats, encoded, model_and_tokenizer

SEQUENCES, TOKENS = {"small": 2, "full": 8}, 512
CHUNK = 512


def _batch(setting: Setting, tokenizer: Any) -> dict[str, Any]:
    """`input_ids` and `labels` (sequences, tokens): chats behind one another, without a gap."""
    import torch

    wanted = SEQUENCES[setting.size] * TOKENS
    ids = [token for row in chats(setting, "train", 64) for token in encoded(tokenizer, row)["input_ids"]]
    ids = (ids * (wanted // len(ids) + 1))[:wanted]
    rows = torch.tensor(ids).view(SEQUENCES[setting.size], TOKENS)
    return {
        "input_ids": rows, "attention_mask": torch.ones_like(rows), "labels": rows,
        "num_targets": len(rows) * (TOKENS - 1),
    }  # fmt: skip


def _step(total: Callable[[Any, dict[str, Any]], Any], setting: Setting) -> Measured:
    """One step to warm up, and one that is measured; the loss is a mean, in nats."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    model, tokenizer = model_and_tokenizer(setting)
    set_seed(setting.seed)
    model = get_peft_model(model, LoraConfig(**LORA)).train()
    batch = _batch(setting, tokenizer)
    few = {
        **{name: batch[name][:1] for name in ("input_ids", "attention_mask", "labels")},
        "num_targets": TOKENS - 1,
    }
    total(model, few).backward()
    model.zero_grad()
    with measuring() as meter:
        loss = total(model, batch) / batch["num_targets"]
        loss.backward()
    slopes = [weights.grad for weights in model.parameters() if weights.grad is not None]
    norm = sum(float(slope.square().sum()) for slope in slopes) ** 0.5
    return meter.measured({"targets": batch["num_targets"]}, {"loss": float(loss.detach()), "gradient": norm})


def toolkit(setting: Setting) -> Measured:
    """As in a run, which has oneDNN compute linear layers where that is quicker."""
    from toolkit_causal_lm.loss import summed_cross_entropy

    from toolkit.linear import swift_linear

    def total(model: Any, batch: dict[str, Any]) -> Any:
        with swift_linear(model):
            return summed_cross_entropy(model, batch).total

    return _step(total, setting)


def transformers(setting: Setting) -> Measured:
    def total(model: Any, batch: dict[str, Any]) -> Any:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
        return model(**inputs, use_cache=False).loss * batch["num_targets"]

    return _step(total, setting)


def torch(setting: Setting) -> Measured:
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import linear_cross_entropy

    chunks = LinearCrossEntropyOptions(batch_chunk_size=CHUNK)

    def total(model: Any, batch: dict[str, Any]) -> Any:
        inner = model.get_base_model()
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        hidden = inner.model(**inputs, use_cache=False).last_hidden_state[:, :-1].flatten(0, 1)
        targets = batch["labels"][:, 1:].flatten()
        return linear_cross_entropy(hidden, inner.lm_head.weight, targets, reduction="sum", options=chunks)

    return _step(total, setting)


WORKLOADS = [
    Workload(
        "many-targets",
        f"a step of {TOKENS} tokens a sequence, each a target, LoRA on the attention",
        sides=[Side("transformers", transformers), Side("torch", torch), Side("toolkit", toolkit)],
        baseline="transformers",
    ),
]
