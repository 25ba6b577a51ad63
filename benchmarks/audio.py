"""Whisper with LoRA: a plain transformers script against a run of the toolkit, on the same clips.

Each epoch ends with an evaluation, of the loss and of generated texts. At full size there are `ROWS` clips, or as
many as `BENCH_SPEECH_ROWS` says (`BENCH_SPEECH_ROWS=1000000`: all of them).
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Target, Workload, measuring

ROWS = {"small": 16, "full": 192}
MEASURED = 8
"""A row is measured on for so many that are trained on."""
DECODER = ["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.v_proj"]
BOTH = ["q_proj", "v_proj"]
BATCH = 8


@dataclass(frozen=True)
class Job:
    """What all sides of a workload do."""

    targets: list[str]
    epochs: int
    learning_rate: float = 1e-3

    def lora(self) -> dict[str, Any]:
        return {"r": 16, "lora_alpha": 32, "target_modules": self.targets}

    def train(self, setting: Setting) -> dict[str, Any]:
        return {
            "num_train_epochs": self.epochs,
            "learning_rate": self.learning_rate,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": BATCH,
            "train_sampling_strategy": "sequential",
            "eval_strategy": "epoch",
            "save_strategy": "no",
            "logging_steps": 1,
            "seed": setting.seed,
            "report_to": "none",
            "use_cpu": True,
        }


Clips = dict[str, list[dict[str, Any]]]


def clips(setting: Setting) -> Clips:
    """Rows `audio` and `text` to train on and to measure on, those that a model can take, in an order of their own."""
    from toolkit.opening import open_data
    from toolkit.plugins import Plugins

    count = int(os.environ.get("BENCH_SPEECH_ROWS", ROWS[setting.size]))
    splits = open_data(Plugins(_recipe(setting, Job(DECODER, 1))), None)
    wanted = {"train": count, "validation": max(1, count // MEASURED)}
    return {name: _usable(splits[name], most, setting.seed) for name, most in wanted.items()}


def _usable(rows: Any, most: int, seed: int) -> list[dict[str, Any]]:
    from toolkit_whisper.inspect_ import seconds

    found = [{"audio": row["audio"], "text": row["text"]} for row in rows if row["text"].strip()]
    found = [row for row in found if seconds(row) <= 30]
    random.Random(seed).shuffle(found)
    return found[:most]


# ---- a plain transformers script ----------------------------------------------------------------------------


def script(job: Job, setting: Setting) -> Measured:
    import torch
    from peft import LoraConfig, get_peft_model
    from toolkit_whisper.audio import load
    from transformers import (
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        set_seed,
    )

    from toolkit.modules import expand

    rows = clips(setting)
    with measuring() as meter:
        set_seed(setting.seed)
        processor = WhisperProcessor.from_pretrained(setting.model("whisper"))
        model = WhisperForConditionalGeneration.from_pretrained(setting.model("whisper"))
        model = get_peft_model(model, expand(model, LoraConfig(**job.lora())))

        def prepared(row: dict[str, Any]) -> dict[str, Any]:
            sound = load(row["audio"], 16_000, 30).numpy()
            features = processor.feature_extractor(sound, sampling_rate=16_000, return_tensors="pt")
            return {
                "input_features": features.input_features[0],
                "labels": processor.tokenizer(row["text"]).input_ids,
            }

        def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
            labels = processor.tokenizer.pad(
                [{"input_ids": row["labels"]} for row in batch], return_tensors="pt"
            )
            ids = labels.input_ids.masked_fill(labels.attention_mask == 0, -100)
            return {
                "input_features": torch.stack([row["input_features"] for row in batch]),
                "labels": ids[:, 1:],
            }

        trainer = Seq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(
                output_dir=str(setting.folder),
                predict_with_generate=True,
                generation_max_length=model.config.max_target_positions,
                remove_unused_columns=False,
                label_names=["labels"],
                disable_tqdm=True,
                **job.train(setting),
            ),
            train_dataset=[prepared(row) for row in rows["train"]],
            eval_dataset=[prepared(row) for row in rows["validation"]],
            data_collator=collate,
            compute_metrics=lambda predicted: _error_rate(processor.tokenizer, predicted),
        )
        trainer.train()
        model.save_pretrained(setting.folder / "model")
    return meter.measured(_work(job, rows), _quality(trainer.state.log_history))


def _error_rate(tokenizer: Any, predicted: Any) -> dict[str, float]:
    from toolkit_whisper.metrics import ErrorRates, Normalise

    rates = ErrorRates(Normalise(tokenizer))
    texts = [
        tokenizer.batch_decode(ids.clip(min=0) + (ids < 0) * tokenizer.pad_token_id, skip_special_tokens=True)
        for ids in (predicted.predictions, predicted.label_ids)
    ]
    rates.add(predictions=texts[0], references=texts[1], languages=["en"] * len(texts[0]))
    return {"wer": rates.compute()["wer"]}


def _quality(history: list[dict[str, Any]]) -> dict[str, float]:
    trained = [line["loss"] for line in history if "loss" in line]
    last = [line for line in history if "eval_loss" in line][-1]
    return {"train_loss": trained[-1], "loss": last["eval_loss"], "wer": last["eval_wer"]}


def _work(job: Job, rows: Clips) -> dict[str, float]:
    return {"clips": job.epochs * sum(map(len, rows.values()))}


# ---- the toolkit ---------------------------------------------------------------------------------------------


def toolkit(job: Job, setting: Setting, cache: Path | None = None, fitted: bool = False) -> Measured:
    """A run; its cache is cold unless it is given one."""
    import toolkit
    import toolkit.execution

    rows = clips(setting)
    recipe = _recipe(setting, job, fitted).override(cache={"dir": str(cache or setting.folder / "cache")})
    with measuring() as meter:
        made = toolkit.run(recipe, str(setting.folder / "run"), data=rows)
    return meter.measured(_work(job, rows), _told(made, fitted))


def _told(made: Any, fitted: bool) -> dict[str, float]:
    import json

    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line["loss"] for line in lines if line["split"] == "train"]
    last = [line for line in lines if line["split"] == "validation"][-1]
    names = ["loss", "wer", *(["wer_full_window"] if fitted else [])]
    return {"train_loss": trained[-1], **{name: last[name] for name in names}}


def _recipe(setting: Setting, job: Job, fitted: bool = False) -> Any:
    from toolkit import Recipe

    order = {"train_sampling_strategy": "group_by_length"} if fitted else {}
    return Recipe(
        name="speech",
        plugins=["whisper"],
        model=setting.model("whisper"),
        data=setting.data("speech"),
        adapter=job.lora(),
        train={**job.train(setting), **order},
        eval={"before": False, "test": False},
        whisper={"audio_window": "fit" if fitted else "full"},
    )


def warm(job: Job, setting: Setting) -> Measured:
    """A run that reads what another one has kept."""
    cache = setting.shared / "cache"
    if not cache.exists():
        once = Job(job.targets, 1)
        toolkit(once, _beside(setting), cache)
    return toolkit(job, setting, cache)


def _beside(setting: Setting) -> Setting:
    from dataclasses import replace

    return replace(setting, folder=setting.folder / "first")


def fitted(job: Job, setting: Setting) -> Measured:
    return toolkit(job, setting, fitted=True)


def _sides(job: Job, **named: Any) -> list[Side]:
    from functools import partial

    return [Side(name, partial(run, job)) for name, run in named.items()]


_LORA = Job(DECODER, epochs=3)
_LONG = Job(DECODER, epochs=10)
_BOTH = Job(BOTH, epochs=1)

WORKLOADS = [
    Workload(
        "whisper-decoder",
        "LoRA on the decoder's attention, 3 epochs with an evaluation each, the same clips in the same order",
        sides=_sides(_LORA, script=script, toolkit=toolkit, warm=warm, fitted=fitted),
        baseline="script",
        targets=[
            Target("toolkit", "speed", at_least=2.0),
            Target("warm", "speed", at_least=4.0),
            Target("fitted", "speed", at_least=8.0),
        ],
    ),
    Workload(
        "whisper-decoder-long",
        "the same, 10 epochs",
        sides=_sides(_LONG, script=script, toolkit=toolkit),
        baseline="script",
        targets=[Target("toolkit", "speed", at_least=4.0)],
        sizes=("full",),
    ),
    Workload(
        "whisper-both",
        "LoRA on encoder and decoder, an epoch with an evaluation",
        sides=_sides(_BOTH, script=script, toolkit=toolkit, fitted=fitted),
        baseline="script",
        targets=[Target("fitted", "speed", at_least=5.0)],
    ),
]
