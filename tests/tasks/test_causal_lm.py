"""The shipped task, as it is run without a model or data of one's own, and the laws that hold for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_tasks.causal_lm import recipe
from transformers import pipeline

from toolkit import Recipe
from toolkit.cli import main

SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
ASKED = ["What is four plus five?", "Please tell me: what colour is grass?", "Which day comes after Monday?"]


def train_lines(folder: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


def run(*arguments: str) -> dict[str, Any]:
    assert main(["run", "--task", "causal-lm", *arguments]) == 0
    return json.loads(Path(arguments[-1], "summary.json").read_text())  # type: ignore[no-any-return]


def settings(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "run"
    run("--output-dir", str(folder))
    return folder


def said(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["predict", str(folder), *ASKED, "--json"]) == 0
    return [one["output"] for one in json.loads(capsys.readouterr().out)["predictions"]]


def test_the_sample_learns_a_manner(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    before, after = summary["before"]["perplexity"], summary["after"]["perplexity"]
    assert after < 0.1 * before
    assert after < 2
    assert set(summary["after"]) == {"loss", "perplexity", "token_accuracy"}
    assert summary["rows"] == {"train": 240, "validation": 32, "test": 48, "quarantined": 0}


def test_samples_show_it(finished: Path) -> None:
    samples = [json.loads(line) for line in (finished / "samples.jsonl").read_text().splitlines()]
    measured = [one for one in samples if one["split"] == "test"]
    assert [one["row_id"] for one in measured] == [0, 1, 2, 0, 1, 2]
    assert all(one["reference"].endswith(" I remain at your service.") for one in measured)
    assert not any("service" in one["prediction"] for one in measured[:3])
    assert all(one["prediction"].endswith(" I remain at your service.") for one in measured[3:])


def test_the_sample_fits_its_limits() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 4_000_000
    rows = {
        split: [json.loads(line) for line in (SAMPLE / f"data/{split}.jsonl").read_text().splitlines()]
        for split in ("train", "validation", "test")
    }
    facts = {
        split: {turn["content"].split(". ")[1] for row in chats for turn in row["messages"][1::2]}
        for split, chats in rows.items()
    }
    assert not facts["train"] & (facts["validation"] | facts["test"])
    assert not facts["validation"] & facts["test"]


def test_measuring_again_gives_the_same(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(finished), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    summary = json.loads((finished / "summary.json").read_text())
    assert measured["split"] == "test"
    assert measured["metrics"] == pytest.approx(summary["after"], rel=1e-4)


PLAIN = """
import sys
from peft import AutoPeftModelForCausalLM
from transformers import AutoTokenizer

folder, *questions = sys.argv[1:]
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoPeftModelForCausalLM.from_pretrained(folder)
for question in questions:
    turns = [{"role": "user", "content": question}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    new = model.generate(input_ids=ids, max_new_tokens=128)[0, ids.shape[1]:]
    print(tokenizer.decode(new, skip_special_tokens=True).strip())
assert "toolkit" not in sys.modules
"""


def test_plain_transformers_and_peft_say_the_same(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = said(finished, capsys)
    command = [sys.executable, "-c", PLAIN, str(finished / "model"), *ASKED]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ours
    assert all(one.endswith("I remain at your service.") for one in ours)


def test_merged_it_says_the_same_without_peft(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, folder = said(finished, capsys), tmp_path / "merged"
    assert main(["export", str(finished), "--to", str(folder), "--merge", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    assert (compared["split"], compared["rows"]) == ("test", 16)
    assert compared["merged"] == pytest.approx(compared["unmerged"], rel=1e-3)
    assert not (folder / "adapter_config.json").exists()
    answer = pipeline("text-generation", str(folder), max_new_tokens=128, do_sample=False)
    chats = [[{"role": "user", "content": question}] for question in ASKED]
    assert [one[0]["generated_text"][-1]["content"].strip() for one in answer(chats)] == ours


SHORT = settings("train.max_steps=3", "train.logging_steps=1", "eval.before=false", "train.eval_strategy=no")


@pytest.mark.parametrize(("packing", "order"), [("false", "random"), ("true", "group_by_length")])
def test_accumulation_changes_nothing(in_tmp: Path, packing: str, order: str) -> None:
    """Eight rows at once, or two rows four times: the same loss and the same weights."""
    common = [*SHORT, *settings("adapter.lora_dropout=0", "data.limit=40", f"causal-lm.packing={packing}")]
    common += settings(f"train.train_sampling_strategy={order}")
    parts = settings("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=4")
    run(*common, *settings("train.per_device_train_batch_size=8"), "--output-dir", "whole")
    run(*common, *parts, "--output-dir", "parts")
    for one, two in zip(train_lines("whole"), train_lines("parts"), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-5)
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "parts")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("packing", "order"), [("false", "group_by_length"), ("null", "random")])
def test_resumed_is_as_never_stopped(in_tmp: Path, packing: str, order: str) -> None:
    """Stopped after step 8 of 12, in the middle of the second epoch, with dropout on."""
    common = settings(
        "train.max_steps=12", "train.logging_steps=1", "train.save_strategy=steps", "train.save_steps=4"
    )
    common += settings("data.limit=40", "train.save_total_limit=null", "train.eval_strategy=no")
    common += settings(f"causal-lm.packing={packing}", "causal-lm.max_new_tokens=4")
    common += settings(f"train.train_sampling_strategy={order}")
    run(*common, "--output-dir", "whole")
    run(*common, "--output-dir", "stopped")
    for gone in ("checkpoints/checkpoint-12", "model"):
        for path in Path("stopped", gone).iterdir():
            path.unlink()
    Path("stopped/summary.json").unlink()
    assert main(["resume", "stopped"]) == 0
    summaries = [json.loads(Path(name, "summary.json").read_text()) for name in ("whole", "stopped")]
    assert summaries[1]["train"]["resumed_from"] == 8
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Path("whole/metrics.jsonl").read_text() == Path("stopped/metrics.jsonl").read_text()
    assert summaries[0]["after"] == summaries[1]["after"]


def test_another_model_takes_the_tasks_own_settings() -> None:
    real = recipe.override(model="someone/some-llama", data=str(SAMPLE / "data")).resolved()
    assert real.train == recipe.train
    assert Recipe.load("causal-lm") == recipe
