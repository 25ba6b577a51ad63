"""Plain scripts with `transformers.Trainer`, as one writes them by hand, up to the first step.

    python benchmarks/bare.py text|speech|images MODEL DATA OUTPUT

It ends when the first training step would begin.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

BATCH_SIZE = 8


def text(name: str, data: Path) -> tuple[Any, Any, Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(name), AutoTokenizer.from_pretrained(name)
    rows = [json.loads(line)["messages"] for line in (data / "train.jsonl").open()]

    def collate(chats: list[Any]) -> dict[str, Any]:
        texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels}

    return model, rows, collate, "all-linear"


def speech(name: str, data: Path) -> tuple[Any, Any, Any, Any]:
    import soundfile
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    model = WhisperForConditionalGeneration.from_pretrained(name)
    processor = WhisperProcessor.from_pretrained(name)
    folder = data / "train"
    rows = list(csv.DictReader((folder / "metadata.csv").open()))

    def collate(clips: list[dict[str, str]]) -> dict[str, Any]:
        audio = [soundfile.read(folder / clip["file_name"])[0] for clip in clips]
        features = processor(audio, sampling_rate=16_000, return_tensors="pt").input_features
        texts = [next(clip[key] for key in ("text", "transcription") if key in clip) for clip in clips]
        tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
        return {
            "input_features": features,
            "labels": tokens.input_ids.masked_fill(tokens.attention_mask == 0, -100),
        }

    return model, rows, collate, ["q_proj", "v_proj"]


def images(name: str, data: Path) -> tuple[Any, Any, Any, Any]:
    from PIL import Image
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor

    config = CLIPConfig.from_pretrained(name)
    model = CLIPModel(config) if without_weights(name) else CLIPModel.from_pretrained(name)
    processor = CLIPProcessor.from_pretrained(name)
    folder = data / "train"
    rows = list(csv.DictReader((folder / "metadata.csv").open()))

    def collate(pairs: list[dict[str, str]]) -> dict[str, Any]:
        pictures = [Image.open(folder / pair["file_name"]).convert("RGB") for pair in pairs]
        texts = [next(pair[key] for key in ("text", "caption") if key in pair) for pair in pairs]
        batch = processor(text=texts, images=pictures, padding=True, truncation=True, return_tensors="pt")
        return {**batch, "return_loss": True}

    return model, rows, collate, ["q_proj", "v_proj"]


def without_weights(name: str) -> bool:
    """Whether a model is a folder that holds its configuration alone."""
    return Path(name).is_dir() and not any(Path(name).glob("*.safetensors"))


def main(kind: str, name: str, data: str, output: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class EndAtFirstStep(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            os._exit(0)

    model, rows, collate, targets = {"text": text, "speech": speech, "images": images}[kind](name, Path(data))
    if not without_weights(name):  # random weights are trained whole
        lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05, target_modules=targets)
        model = get_peft_model(model, lora)
    arguments = TrainingArguments(
        output_dir=output,
        per_device_train_batch_size=BATCH_SIZE,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    Trainer(model, arguments, collate, train_dataset=rows, callbacks=[EndAtFirstStep()]).train()


if __name__ == "__main__":
    main(*sys.argv[1:])
