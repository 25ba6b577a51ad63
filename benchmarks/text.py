"""Chat pairs with LoRA on the attention: a run of the toolkit against TRL, and against a plain transformers script.

All sides begin with the same weights, go once over the same rows in the same order, and learn the same tokens of them:
those of the answers, each with its end. Tokens are counted without padding. Packed by TRL, a step is one sequence that
holds about as many rows as a batch of the others. Seconds are those of the training alone; CPU seconds and memory are
also of what is made before it and saved behind it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Target, Workload, measuring

BATCH = 8
ROWS = {"small": 32, "full": 64}
SCRIPT_BATCH = 4
SCRIPT_ROWS = {"small": 16, "full": 8}
HELD_OUT = 16
PADDED_TO = 512
PACKED_TO = 512
MOST_CHARACTERS = 1500
LORA = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
IGNORED = -100

Tokens = dict[str, list[int]]


def chats(setting: Setting, split: str, count: int) -> list[dict[str, Any]]:
    """So many rows of one question and its answer, spread over the split by length, so that they are like all of it."""
    rows = sorted((row for row in _read(setting.data("chats"), split) if _is_pair(row)), key=_characters)
    spread = [rows[(2 * place + 1) * len(rows) // (2 * count)] for place in range(count)]
    random.Random(setting.seed).shuffle(spread)
    return spread


def _read(name: str, split: str) -> list[dict[str, Any]]:
    path = Path(name, f"{split}.jsonl")
    if path.exists():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    from datasets import load_dataset

    return list(load_dataset(name, split=split))


def _is_pair(row: dict[str, Any]) -> bool:
    """Short enough for no side to cut it off."""
    roles = [turn["role"] for turn in row["messages"]]
    return roles == ["user", "assistant"] and _characters(row) <= MOST_CHARACTERS


def _characters(row: dict[str, Any]) -> int:
    return sum(len(turn["content"]) for turn in row["messages"])


def encoded(tokenizer: Any, row: dict[str, Any]) -> Tokens:
    """`input_ids` and `labels` of a chat of two turns, by its template."""
    asked = tokenizer.apply_chat_template(row["messages"][:-1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(row["messages"], tokenize=False)
    ids = tokenizer(whole, add_special_tokens=False).input_ids
    start = len(tokenizer(asked, add_special_tokens=False).input_ids)
    special = set(tokenizer.get_added_vocab().values())
    stop = max(place for place, token in enumerate(ids) if token in special) + 1
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:stop] + [IGNORED] * (len(ids) - stop)}


def model_and_tokenizer(setting: Setting) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(setting.model("llama"), dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(setting.model("llama"))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def arguments(setting: Setting, batch: int) -> dict[str, Any]:
    return {
        "num_train_epochs": 1,
        "learning_rate": 5e-4,
        "per_device_train_batch_size": batch,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1,
        "seed": setting.seed,
        "report_to": "none",
        "use_cpu": True,
    }


def held_out_loss(model: Any, rows: Sequence[Tokens]) -> float:
    """In nats per token, one row after the other, by the model's own logits."""
    import torch
    from torch.nn.functional import cross_entropy

    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1].double()
            labels = torch.tensor(row["labels"][1:])
            total += float(cross_entropy(logits, labels, reduction="sum", ignore_index=IGNORED))
            count += int((labels != IGNORED).sum())
    return total / count


def amounts(rows: Sequence[Tokens]) -> dict[str, float]:
    targets = sum(label != IGNORED for row in rows for label in row["labels"])
    return {"tokens": sum(len(row["input_ids"]) for row in rows), "targets": targets, "rows": len(rows)}


def quality(setting: Setting, model: Any, tokenizer: Any) -> dict[str, float]:
    rows = [encoded(tokenizer, row) for row in chats(setting, "test", HELD_OUT)]
    return {"loss": held_out_loss(model, rows)}


# ---- ours ----------------------------------------------------------------------------------------------------


def toolkit(setting: Setting, rows: dict[str, int], batch: int, settings: dict[str, Any]) -> Measured:
    from toolkit_causal_lm.prepare import Prepare
    from toolkit_causal_lm.settings import CausalLMSettings
    from toolkit_tasks.causal_lm import recipe

    from toolkit import run

    raw = chats(setting, "train", rows[setting.size])
    model, tokenizer = model_and_tokenizer(setting)
    mine = recipe.override(
        model=setting.model("llama"),
        adapter={**LORA, "lora_dropout": 0.0},
        data={"validation_fraction": 0.0},
        train={**arguments(setting, batch), "warmup_steps": 0, "lr_scheduler_type": "linear",
               "train_sampling_strategy": "sequential"},
        eval={"before": False},
        **{"causal-lm": settings},
    )  # fmt: skip
    with measuring() as meter:
        done = run(
            mine, output_dir=setting.folder / "run", data={"train": raw}, model=model, processor=tokenizer
        )
    prepare = Prepare(tokenizer, CausalLMSettings())
    pieces = [piece for row in raw for piece in prepare(row)["pieces"]]
    counted = amounts([{"input_ids": piece.ids, "labels": piece.labels} for piece in pieces])
    measured = meter.measured(counted, quality(setting, done.model, tokenizer))
    return replace(measured, seconds=done.summary["train"]["seconds"])


# ---- TRL -----------------------------------------------------------------------------------------------------


def trl(setting: Setting, packing: bool) -> Measured:
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(train_dataset or self.train_dataset)

    model, tokenizer = model_and_tokenizer(setting)
    rows = [encoded(tokenizer, row) for row in chats(setting, "train", ROWS[setting.size])]
    with measuring() as meter:
        set_seed(setting.seed)
        trainer = InOrder(
            model=model,
            args=SFTConfig(
                output_dir=str(setting.folder),
                packing=packing,
                max_length=PACKED_TO,
                bf16=False,
                gradient_checkpointing=False,
                **arguments(setting, 1 if packing else BATCH),
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        )
        trained = trainer.train()
    measured = meter.measured(amounts(rows), quality(setting, trainer.model, tokenizer))
    return replace(measured, seconds=trained.metrics["train_runtime"])


# ---- a plain transformers script ----------------------------------------------------------------------------


def script(setting: Setting, padded_to: int | None) -> Measured:
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments, set_seed

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    model, tokenizer = model_and_tokenizer(setting)
    rows = [encoded(tokenizer, row) for row in chats(setting, "train", SCRIPT_ROWS[setting.size])]
    padding = "max_length" if padded_to else "longest"
    with measuring() as meter:
        set_seed(setting.seed)
        model.add_adapter(LoraConfig(**LORA), adapter_name="lora_adapter")
        model.set_adapter("lora_adapter")
        trainer = InOrder(
            model=model,
            args=TrainingArguments(output_dir=str(setting.folder), **arguments(setting, SCRIPT_BATCH)),
            train_dataset=rows,
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=padding, max_length=padded_to),
        )
        trained = trainer.train()
    measured = meter.measured(amounts(rows), quality(setting, model, tokenizer))
    return replace(measured, seconds=trained.metrics["train_runtime"])


WORKLOADS = [
    Workload(
        "chat-pairs",
        "LoRA on the attention, chat pairs of uneven length in batches of 8: the same rows, labels and order",
        sides=[
            Side("toolkit", partial(toolkit, rows=ROWS, batch=BATCH, settings={})),
            Side("toolkit-padded", partial(toolkit, rows=ROWS, batch=BATCH, settings={"packing": False})),
            Side("trl", partial(trl, packing=False), needs=("trl",)),
            Side("trl-packed", partial(trl, packing=True), needs=("trl",)),
        ],
        baseline="trl",
        targets=[
            Target("toolkit", "tokens/s", at_least=2.5),
            Target("toolkit", "tokens/s", at_least=1.7, against="trl-packed"),
            Target("toolkit", "peak_mb", at_most=0.5),
            Target("toolkit", "peak_mb", at_most=1.0, against="trl-packed"),
        ],
    ),
    Workload(
        "llama-script",
        f"a plain transformers script, padding to {PADDED_TO} tokens, in batches of 4: the same rows, labels and order",
        sides=[
            Side("toolkit", partial(toolkit, rows=SCRIPT_ROWS, batch=SCRIPT_BATCH, settings={})),
            Side("script-max-length", partial(script, padded_to=PADDED_TO)),
            Side("script-dynamic", partial(script, padded_to=None)),
        ],
        baseline="script-max-length",
        targets=[Target("toolkit", "tokens/s", at_least=10)],
    ),
]
