"""Runs of the samples with what is frozen computed once: the same to the last digit, and another run reads it again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_tasks import clip_contrastive, whisper_asr

from toolkit import Recipe, Run, load_run, notices, run
from toolkit.cli import main
from toolkit.stages import FrozenStage

SHORT: dict[str, Any] = {
    "data": {"limit": 24},
    "eval": {"max_samples": 8},
    "train": {"num_train_epochs": 2, "logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "epoch",
              "use_cpu": True},
}  # fmt: skip
DECODER = {"target_modules": ["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.v_proj"]}


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[FrozenStage]:
    """The stages of the runs, in the order in which they were begun."""
    stages: list[FrozenStage] = []
    attach = FrozenStage.attached

    def attached(stage: FrozenStage) -> Any:
        stages.append(stage)
        return attach(stage)

    monkeypatch.setattr(FrozenStage, "attached", attached)
    return stages


def recipes() -> dict[str, Recipe]:
    locked = {"trained": "text", "micro_batch_size": 4}
    return {
        "whisper": whisper_asr.recipe.override(**SHORT, adapter=DECODER),
        "clip": clip_contrastive.recipe.override(**SHORT, adapter=None, clip=locked),
        "clip-lora": clip_contrastive.recipe.override(
            **SHORT, adapter={"target_modules": ["text_model.encoder.layers.*.self_attn.q_proj"]}
        ),
    }


def outcome(made: Run) -> tuple[list[Any], dict[str, torch.Tensor]]:
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    return lines, load_file(next((made.folder / "model").glob("*model.safetensors")))


@pytest.mark.parametrize("name", ["whisper", "clip", "clip-lora"])
def test_reused_is_computed(name: str, in_tmp: Path, counted: list[FrozenStage]) -> None:
    recipe = recipes()[name].override(cache={"dir": "kept"})
    plain = run(recipe.override(cache={"enabled": False}), "plain")
    assert counted == []
    cold, warm = run(recipe, "cold"), run(recipe, "warm")
    (first, second) = counted
    assert (first.stage.name, second.stage.name) == (
        ("encoder",) * 2 if name == "whisper" else ("image tower",) * 2
    )
    rows = 24 + sum(plain.summary["rows"][split] for split in ("validation", "test"))
    assert 24 < first.computed <= rows + 1  # fewer where captions share a picture
    assert first.read > 24
    assert second.computed <= 1
    lines, weights = outcome(plain)
    for made in (cold, warm):
        again, tensors = outcome(made)
        assert again == lines
        assert all(torch.equal(weights[key], tensors[key]) for key in weights)
    assert load_run("cold").evaluate()["metrics"] == plain.summary["after"]
    assert counted[2].computed <= 1


def test_a_stopped_run_goes_on_with_what_is_kept(in_tmp: Path, counted: list[FrozenStage]) -> None:
    recipe = recipes()["whisper"].override(cache={"dir": "kept"})
    whole = run(recipe, "whole")
    stopped = run(recipe.override(cache={"dir": "other"}), "stopped")
    last = max((stopped.folder / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    (stopped.folder / "summary.json").unlink()
    for kept in list(Path("other").rglob("*.safetensors"))[::2]:
        kept.unlink()
    again = run(recipe.override(cache={"dir": "other"}), "stopped", resume=True)
    assert again.summary["train"]["resumed_from"] > 0
    assert outcome(again)[0] == outcome(whole)[0]


def test_pictures_are_decoded_once(in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Over epochs, evaluations and runs, also by workers; where a part is cut out at random, for that."""
    recipe = recipes()["clip"].override(cache={"dir": "kept"}, data={"limit": 12}, train={"max_steps": 4})
    run(recipe.override(train={"dataloader_num_workers": 1}), "cold")
    assert main(["cache", "--dir", "kept", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    (pixels,) = [one for one in entries if one["stage"] == "pixels"]
    assert {Path(one["model"]).name for one in entries} == {"model"}
    assert 12 < pixels["rows"] <= 12 + 2 * 8
    with monkeypatch.context() as patch:
        patch.setattr("toolkit_clip.prepare.open_rgb", lambda image: pytest.fail(f"{image} is decoded again"))
        run(recipe, "warm")
        run(recipe.override(clip={"min_crop": 0.5}), "cropped")


@pytest.mark.parametrize(("settings", "varies"), [({"min_crop": 0.5}, True), ({"colour": 0.0}, False)])
def test_pictures_that_are_changed_at_random(
    settings: Any, varies: bool, in_tmp: Path, counted: list[FrozenStage]
) -> None:
    run(recipes()["clip"].override(cache={"dir": "kept"}, clip=settings, train={"max_steps": 2}), "first")
    assert counted[0].varies == varies


def test_augmented_clips_are_computed_each_time(
    in_tmp: Path, counted: list[FrozenStage], capsys: Any
) -> None:
    recipe = recipes()["whisper"].override(cache={"dir": "kept"}, whisper={"noise_snr_db": [10, 20]})
    made = run(recipe, "first")
    measured = made.summary["rows"]["validation"] + made.summary["rows"]["test"]
    assert counted[0].store.rows == measured
    assert (
        "rows are augmented, so the encoder is computed at each step of training" in capsys.readouterr().err
    )


def test_the_command(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--dir", "kept"]) == 0
    assert "nothing is kept in kept" in capsys.readouterr().out
    run(recipes()["whisper"].override(cache={"dir": "kept"}, train={"max_steps": 1}), "first")
    capsys.readouterr()
    assert main(["cache", "--dir", "kept", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["entries"]
    assert entry["stage"] == "encoder"
    files = list(Path("kept").rglob("*.safetensors"))
    assert (entry["rows"], entry["bytes"]) == (len(files), sum(path.stat().st_blocks * 512 for path in files))
    assert main(["eval", "first", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    shutil.rmtree("kept")
    assert main(["eval", "first", "--json", "--set", "cache.enabled=false"]) == 0
    assert json.loads(capsys.readouterr().out) == measured
    assert not Path("kept").exists()
    assert main(["eval", "first"]) == 0
    capsys.readouterr()
    files = list(Path("kept").rglob("*.safetensors"))
    assert main(["cache", "--dir", "kept", "--clear"]) == 0
    assert f"encoder  model  {len(files)}" in capsys.readouterr().out.replace("   ", "  ")
    assert not list(Path("kept").rglob("*.safetensors"))
