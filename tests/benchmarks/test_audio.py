"""The sides of the speech workloads do the same work."""

from __future__ import annotations

from pathlib import Path

import pytest
from toolkit_tasks import whisper_asr

from benchmarks import audio, features
from benchmarks.frame import Measured, Setting

SAMPLE = whisper_asr.recipe.sample or {}


def measured(workload: str, side: str, folder: Path) -> Measured:
    (found,) = [one for one in [*audio.WORKLOADS, *features.WORKLOADS] if one.name == workload]
    (folder / side).mkdir()
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    models, data = {"whisper": str(SAMPLE["model"])}, {"speech": str(SAMPLE["data"])}
    return found.side(side).run(Setting("small", models, data, folder / side, shared, threads=1, seed=0))


def test_the_script_and_the_toolkit_train_alike(tmp_path: Path) -> None:
    script, *ours = [
        measured("whisper-decoder", side, tmp_path) for side in ("script", "toolkit", "warm", "fitted")
    ]
    assert script.work == ours[0].work == {"clips": 54}
    for one in ours[:2]:
        assert one.quality == pytest.approx(script.quality, rel=1e-4)
    assert ours[2].quality["wer_full_window"] <= script.quality["wer"] + 0.2


def test_features_are_the_same(tmp_path: Path) -> None:
    one, other = (measured("log-mel-batch", side, tmp_path) for side in ("transformers", "toolkit"))
    assert one.quality == pytest.approx(other.quality, abs=1e-5)
    assert one.work == other.work == {"clips": 16}
