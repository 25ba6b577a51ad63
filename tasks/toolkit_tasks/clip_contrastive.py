"""Images and captions: fine-tune a CLIP so that they find one another."""

from pathlib import Path

from toolkit import Recipe

_SAMPLE = Path(__file__).parent / "samples" / "clip_contrastive"

recipe = Recipe(
    name="clip-contrastive",
    plugins=["clip"],
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
        "num_train_epochs": 5,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 64,
        "weight_decay": 0.1,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "logging_steps": 5,
    },
    clip={},
    sample={
        "model": _SAMPLE / "model",
        "data": _SAMPLE / "data",
        "adapter": {
            "target_modules": [
                "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "visual_projection", "text_projection"
            ]
        },
        "train": {"learning_rate": 3e-3, "num_train_epochs": 8},
    },
)  # fmt: skip
