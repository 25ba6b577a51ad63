"""Image classification: fine-tune a ViT, or another classifier, on images and their classes."""

from pathlib import Path

from toolkit import Recipe

_SAMPLE = Path(__file__).parent / "sample"

recipe = Recipe(
    name="my-task",
    plugins=["my-task"],
    model="sample",
    data="sample",
    train={
        "learning_rate": 5e-5,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "warmup_steps": 0.1,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 10,
    },
    sample={
        "model": _SAMPLE / "model",
        "data": _SAMPLE / "data",
        "train": {"learning_rate": 6e-3, "num_train_epochs": 8},
        "my-task": {"classes": ["across", "checked", "down"]},
    },
)
