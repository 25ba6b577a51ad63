"""Log-mel features: ours against transformers' `WhisperFeatureExtractor`, of clips of 2 to 5 s."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Target, Workload, measuring

CLIPS = {"small": 16, "full": 200}
BATCH = 8


def _sounds(setting: Setting) -> list[Any]:
    """(samples,) float32 at 16 kHz, of 2 to 5 s."""
    import torch

    generator = torch.Generator().manual_seed(setting.seed)
    lengths = torch.randint(32_000, 80_000, (CLIPS[setting.size],), generator=generator)
    return [0.1 * torch.randn(int(length), generator=generator) for length in lengths]


def _extractor(setting: Setting) -> Any:
    """Of a window of 30 s."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor()


def _measured(setting: Setting, features: Callable[[list[Any]], Any], batch: int) -> Measured:
    """Features of all clips, so many at once; `mean` tells that they are the same."""
    import torch

    sounds = _sounds(setting)
    features(sounds[:batch])
    total = 0.0
    with measuring() as meter:
        for start in range(0, len(sounds), batch):
            total += float(torch.as_tensor(features(sounds[start : start + batch])).sum())
    return meter.measured({"clips": len(sounds)}, {"mean": total / len(sounds) / (80 * 3000)})


def extractor(setting: Setting, batch: int) -> Measured:
    reference = _extractor(setting)
    return _measured(
        setting,
        lambda sounds: (
            reference(
                [one.numpy() for one in sounds], sampling_rate=16_000, return_tensors="pt"
            ).input_features
        ),
        batch,
    )


def toolkit(setting: Setting, batch: int) -> Measured:
    import torch
    from toolkit_whisper.features import FeatureSpec, log_mel

    spec = FeatureSpec.of(_extractor(setting))
    return _measured(setting, lambda sounds: torch.stack([log_mel(one, spec) for one in sounds]), batch)


def _workload(name: str, summary: str, batch: int) -> Workload:
    return Workload(
        name,
        summary,
        sides=[
            Side("transformers", partial(extractor, batch=batch)),
            Side("toolkit", partial(toolkit, batch=batch)),
        ],
        baseline="transformers",
        targets=[Target("toolkit", "speed", at_least=8.0)],
    )


WORKLOADS = [
    _workload("log-mel", "log-mel features of clips of 2 to 5 s, one at a time", 1),
    _workload("log-mel-batch", f"the same, {BATCH} at a time", BATCH),
]
