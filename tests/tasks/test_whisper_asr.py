"""The shipped task, as `make demo` runs it, and the laws that hold for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_tasks.whisper_asr import recipe

from toolkit import Recipe
from toolkit.cli import main

SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]


def metrics_lines(folder: str, split: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def run(*arguments: str) -> dict[str, Any]:
    assert main(["run", "--task", "whisper-asr", *arguments]) == 0
    return json.loads(Path(arguments[-1], "summary.json").read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "run"
    run("--output-dir", str(folder))
    return folder


def test_the_sample_learns_a_new_voice(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    before, after = summary["before"]["wer"], summary["after"]["wer"]
    assert after < 0.3
    assert after < before / 2
    assert set(summary["after"]) == {"loss", "wer", "cer", "wer_raw", "cer_raw"}
    assert summary["rows"]["quarantined"] == 0


def test_the_sample_fits_its_limits() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 8_000_000
    splits = {
        split: (SAMPLE / "data" / split / "metadata.csv").read_text().splitlines()[1:]
        for split in ("train", "validation", "test")
    }
    texts = {split: {line.split(",", 1)[1].lower() for line in lines} for split, lines in splits.items()}
    assert not texts["train"] & (texts["validation"] | texts["test"])


def test_measuring_again_gives_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(finished), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())
    assert measured["split"] == "test"
    assert measured["metrics"] == pytest.approx(summary["after"], rel=1e-4)


PLAIN = """
import json, sys
import soundfile
from peft import PeftModel
from transformers import WhisperForConditionalGeneration, WhisperProcessor

folder, *paths = sys.argv[1:]
config = json.load(open(folder + "/adapter_config.json"))
model = WhisperForConditionalGeneration.from_pretrained(config["base_model_name_or_path"])
model = PeftModel.from_pretrained(model, folder).eval()
processor = WhisperProcessor.from_pretrained(folder)
for path in paths:
    audio, rate = soundfile.read(path, dtype="float32")
    features = processor(audio, sampling_rate=rate, return_tensors="pt").input_features
    print(processor.batch_decode(model.generate(input_features=features), skip_special_tokens=True)[0].strip())
assert "toolkit" not in sys.modules
"""


def test_plain_transformers_and_peft_say_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in sorted((SAMPLE / "data" / "test").glob("*.*")) if path.suffix != ".csv"][
        :6
    ]
    assert main(["predict", str(finished), *paths, "--json"]) == 0
    ours = [one["output"] for one in json.loads(capsys.readouterr().out)["predictions"]]
    command = [sys.executable, "-c", PLAIN, str(finished / "model"), *paths]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert plain.stdout.splitlines() == ours
    assert all(ours)


MERGED = """
import sys
import soundfile
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

folder, *paths = sys.argv[1:]
model = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
processor = AutoProcessor.from_pretrained(folder)
for path in paths:
    audio, rate = soundfile.read(path, dtype="float32")
    features = processor(audio, sampling_rate=rate, return_tensors="pt").input_features
    print(processor.batch_decode(model.generate(input_features=features), skip_special_tokens=True)[0].strip())
assert not {"toolkit", "peft"} & set(sys.modules)
"""


def test_merged_it_says_the_same_without_peft(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in sorted((SAMPLE / "data" / "test").glob("*.flac"))[:6]]
    assert main(["predict", str(finished), *paths, "--json"]) == 0
    ours = [one["output"] for one in json.loads(capsys.readouterr().out)["predictions"]]
    folder = tmp_path / "merged"
    assert main(["export", str(finished), "--to", str(folder), "--merge", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert (compared["split"], compared["rows"]) == ("test", 16)
    assert compared["merged"] == pytest.approx(compared["unmerged"], rel=1e-3)
    command = [sys.executable, "-c", MERGED, str(folder), *paths]
    plain = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.splitlines() == ours
    assert all(ours)


def test_accumulation_changes_nothing(in_tmp: Path) -> None:
    """Eight rows at once, or two rows four times: the same loss and the same weights."""
    common = ["--set", "train.max_steps=3", "--set", "train.logging_steps=1", "--set", "eval.before=false"]
    common += ["--set", "adapter.lora_dropout=0", "--set", "data.limit=24", "--set", "train.eval_strategy=no"]
    whole = ["--set", "train.per_device_train_batch_size=8"]
    parts = ["--set", "train.per_device_train_batch_size=2", "--set", "train.gradient_accumulation_steps=4"]
    run(*common, *whole, "--output-dir", "whole")
    run(*common, *parts, "--output-dir", "parts")
    for one, two in zip(metrics_lines("whole", "train"), metrics_lines("parts", "train"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "parts")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-6)


def test_resumed_is_as_never_stopped(in_tmp: Path) -> None:
    """Stopped after step 4 of 6, in the middle of an epoch, with dropout and all that changes rows on."""
    common = [
        "--set",
        "train.max_steps=6",
        "--set",
        "train.logging_steps=1",
        "--set",
        "train.save_strategy=steps",
    ]
    common += [
        "--set",
        "train.save_steps=2",
        "--set",
        "data.limit=40",
        "--set",
        "train.save_total_limit=null",
    ]
    common += ["--set", "train.eval_strategy=no", "--set", "whisper.speed=0.1"]
    common += ["--set", "whisper.noise_snr_db=[10, 20]", "--set", "whisper.time_masks=2"]
    common += ["--set", "whisper.time_mask_seconds=0.2", "--set", "whisper.frequency_masks=2"]
    run(*common, "--output-dir", "whole")
    run(*common, "--output-dir", "stopped")
    for gone in ("checkpoints/checkpoint-6", "model"):
        for path in Path("stopped", gone).iterdir():
            path.unlink()
    Path("stopped/summary.json").unlink()
    assert main(["resume", "stopped"]) == 0
    summaries = [json.loads(Path(name, "summary.json").read_text()) for name in ("whole", "stopped")]
    assert summaries[1]["train"]["resumed_from"] == 4
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Path("whole/metrics.jsonl").read_text() == Path("stopped/metrics.jsonl").read_text()
    assert summaries[0]["after"] == summaries[1]["after"]


def test_another_model_takes_the_tasks_own_settings() -> None:
    real = recipe.override(model="openai/whisper-small", data=str(SAMPLE / "data")).resolved()
    assert real.train == recipe.train
    assert Recipe.load("whisper-asr") == recipe
