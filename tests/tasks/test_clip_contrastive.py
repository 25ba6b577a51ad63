"""The shipped task, as `toolkit run --task clip-contrastive` carries it out, and what comes of it."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from toolkit_tasks.clip_contrastive import recipe

from toolkit import Recipe, load_run
from toolkit.cli import main

SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
TEST = SAMPLE / "data" / "test"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "run"
    assert main(["run", "--task", "clip-contrastive", "--output-dir", str(folder)]) == 0
    return folder


def captions(split: str = "test") -> dict[str, list[str]]:
    """The captions of each picture."""
    found: dict[str, list[str]] = {}
    with (SAMPLE / "data" / split / "metadata.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["file_name"], []).append(row["caption"])
    return found


def test_the_sample_learns_new_things_and_words(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    assert after["t2i_recall@1"] > 0.5
    assert after["t2i_recall@1"] > 2 * before["t2i_recall@1"]
    assert after["i2t_recall@1"] > 2 * before["i2t_recall@1"]
    assert after["t2i_median_rank"] < before["t2i_median_rank"]
    ways = [
        f"{way}_{value}"
        for way in ("i2t", "t2i")
        for value in ("recall@1", "recall@5", "recall@10", "median_rank")
    ]
    assert list(after) == ["loss", *ways]
    assert summary["rows"] == {"train": 519, "validation": 87, "test": 103, "quarantined": 0}


def test_the_sample_fits_its_limits() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 3_000_000
    texts = {
        split: {one for row in captions(split).values() for one in row}
        for split in ("train", "validation", "test")
    }
    assert not texts["train"] & (texts["validation"] | texts["test"])
    counts = [len(row) for row in captions("train").values()]
    assert set(counts) == {1, 2}


def test_measuring_again_gives_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(finished), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())
    assert measured["split"] == "test"
    assert measured["metrics"] == pytest.approx(summary["after"], rel=1e-4)


PLAIN = """
import json, sys
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

folder, base, *given = sys.argv[1:]
images, texts = given[: len(given) // 2], given[len(given) // 2 :]
model = CLIPModel.from_pretrained(base or folder)
if base:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, folder)
inputs = CLIPProcessor.from_pretrained(folder)(
    images=[Image.open(image) for image in images], text=texts, padding=True, return_tensors="pt"
)
with torch.no_grad():
    outputs = model.eval()(**inputs)
print(json.dumps((outputs.image_embeds @ outputs.text_embeds.T).tolist()))
assert not {"toolkit", "toolkit_clip"} & set(sys.modules)
"""


def test_plain_transformers_and_peft_score_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The adapter on its base, and merged into it without peft."""
    some = list(captions().items())[:6]
    images, texts = [str(TEST / name) for name, _ in some], [row[0] for _, row in some]
    ours = load_run(finished).predict([*images, *texts])
    assert main(["export", str(finished), "--to", str(tmp_path / "merged"), "--merge", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert compared["merged"] == pytest.approx(compared["unmerged"], rel=1e-3)
    for folder, base in ((finished / "model", str(SAMPLE / "model")), (tmp_path / "merged", "")):
        command = [sys.executable, "-c", PLAIN, str(folder), base, *images, *texts]
        plain = subprocess.run(command, capture_output=True, text=True, check=False)
        assert plain.returncode == 0, plain.stderr
        for scores, output in zip(json.loads(plain.stdout), ours, strict=True):
            expected = dict(zip(texts, scores, strict=True))
            found = {one["caption"]: one["score"] for one in output}
            assert found == pytest.approx(expected, abs=2e-4)
            assert [one["score"] for one in output] == sorted(found.values(), reverse=True)


def test_in_parts_it_is_the_same_run(in_tmp: Path) -> None:
    """A batch of 64 at once and in parts of 16, as a user asks for it."""
    common = ["--set", "train.max_steps=2", "--set", "train.logging_steps=1", "--set", "eval.before=false"]
    common += [
        "--set",
        "adapter.lora_dropout=0",
        "--set",
        "train.eval_strategy=no",
        "--set",
        "eval.max_samples=8",
    ]
    lines: dict[str, Any] = {}
    for name, size in (("whole", "null"), ("parts", "16")):
        command = ["run", "--task", "clip-contrastive", *common, "--set", f"clip.micro_batch_size={size}"]
        assert main([*command, "--output-dir", name]) == 0
        found = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        lines[name] = [{key: value for key, value in line.items() if key != "split"} for line in found]
    for one, two in zip(lines["whole"], lines["parts"], strict=True):
        assert one == pytest.approx(two, rel=1e-3)


def test_another_model_takes_the_tasks_own_settings() -> None:
    real = recipe.override(model="openai/clip-vit-base-patch32", data=str(SAMPLE / "data")).resolved()
    assert real.train == recipe.train
    assert Recipe.load("clip-contrastive") == recipe


def test_the_shipped_model_is_a_clip_of_nano_size() -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(SAMPLE / "model")
    assert 400_000 < model.num_parameters() < 1_000_000
    assert all(weights.dtype == torch.float32 for weights in model.parameters())
