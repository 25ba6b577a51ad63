"""Speech recognition: fine-tune a Whisper on recordings and their transcripts."""

from pathlib import Path

from toolkit import Recipe

_SAMPLE = Path(__file__).parent / "samples" / "whisper_asr"

recipe = Recipe(
    name="whisper-asr",
    plugins=["whisper"],
    model="sample",
    data="sample",
    adapter={
        "kind": "lora",
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "v_proj"],
    },
    train={
        "learning_rate": 1e-4,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "warmup_steps": 0.1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 10,
    },
    whisper={},
    sample={
        "model": _SAMPLE / "model",
        "data": _SAMPLE / "data",
        "adapter": {"target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]},
        "train": {"learning_rate": 3e-3, "num_train_epochs": 4},
    },
)
