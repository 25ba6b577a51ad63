"""A tiny LLaMA, numbered rows, and what a training run did with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from toolkit import Trainer, TrainingArguments

LAYERS = 2


def tiny_llama(layers: int = LAYERS, vocabulary: int = 32, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, attention_bias=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def numbered(count: int) -> list[dict[str, list[int]]]:
    """Rows of three tokens, the first of which is the row's number."""
    return [{"input_ids": [3 + place, 4, 5], "labels": [3 + place, 4, 5]} for place in range(count)]


@dataclass
class Seen:
    """What happened, in the order it happened."""

    batches: list[list[int]] = field(default_factory=list)
    """Numbers of the rows of each batch that was collated."""
    lines: list[dict[str, Any]] = field(default_factory=list)
    """What was logged."""
    evaluated: list[int] = field(default_factory=list)
    saved: list[int] = field(default_factory=list)
    """Steps."""

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.batches.append([row["input_ids"][0] - 3 for row in rows])
        return {key: torch.tensor([row[key] for row in rows]) for key in ("input_ids", "labels")}


class _Watch(TrainerCallback):
    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs:
            self.seen.lines.append({"step": state.global_step, **logs})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.evaluated.append(state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.saved.append(state.global_step)


QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True}


def trainer(rows: int = 8, model: Any = None, kind: type[Trainer] = Trainer, given: dict[str, Any] | None = None,
            **arguments: Any) -> tuple[Trainer, Seen]:  # fmt: skip
    """A trainer of a fresh tiny LLaMA, and what it will have done.

    Args:
        given: to the trainer, beside model, data and arguments.
        arguments: of `TrainingArguments`.
    """
    seen = Seen()
    made = kind(
        model=model if model is not None else tiny_llama(),
        args=TrainingArguments(
            **{"output_dir": "out", "per_device_train_batch_size": 2, **QUIET, **arguments}
        ),
        train_dataset=numbered(rows),
        eval_dataset=numbered(4),
        data_collator=seen.collate,
        callbacks=[_Watch(seen)],
        **(given or {}),
    )
    return made, seen


def trained(rows: int = 8, **kwargs: Any) -> tuple[Trainer, Seen]:
    made, seen = trainer(rows, **kwargs)
    made.train()
    return made, seen


def weights(model: Any) -> torch.Tensor:
    return torch.cat([one.detach().flatten().float() for one in model.parameters()])
