"""Language models: fine-tune a LLaMA, or any other, on chats, prompts with completions, or texts."""

from pathlib import Path

from toolkit import Recipe

_SAMPLE = Path(__file__).parent / "samples" / "causal_lm"

recipe = Recipe(
    name="causal-lm",
    plugins=["causal-lm"],
    model="sample",
    data="sample",
    adapter={
        "kind": "lora",
        "r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": "all-linear",
        "task_type": "CAUSAL_LM",
    },
    train={
        "learning_rate": 2e-4,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 10,
    },
    sample={
        "model": _SAMPLE / "model",
        "data": _SAMPLE / "data",
        "train": {"learning_rate": 5e-3, "num_train_epochs": 6},
    },
    **{"causal-lm": {}},
)
