"""Audio classification: fine-tune an AST, a Wav2Vec2, or another classifier, to tell your sounds apart."""

from pathlib import Path

from toolkit import Recipe

recipe = Recipe(
    name="audio-classify",
    plugins=["audio-classify"],
    model="sample",
    data="sample",
    train={
        "learning_rate": 3e-5,
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
        "model": Path(__file__).parent / "sample_model",
        "data": "audio-classify:sounds",
        "train": {"learning_rate": 3e-3, "num_train_epochs": 4},
        "audio-classify": {"classes": ["beeps", "chirps", "hiss", "tone"], "seconds": 0.5},
    },
)
