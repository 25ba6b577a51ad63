"""Ways to train a Whisper, on a few rows of the sample: they agree with one another, or can be loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_tasks.whisper_asr import recipe

from toolkit import Recipe, Run, load_run, run

QUICK = {
    "data": {"limit": 12},
    "eval": {"before": False, "max_samples": 4},
    "train": {
        "max_steps": 3,
        "logging_steps": 1,
        "eval_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
    },
}


def quick(**changes: Any) -> Recipe:
    return recipe.override(**QUICK).override(**changes)


def losses(made: Run) -> list[tuple[float, float]]:
    """Loss and norm of the gradient at each step."""
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]


@pytest.mark.parametrize("target", ["decoder.layers.*.self_attn.q_proj", "encoder.layers.*.fc1"])
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_activation_checkpointing_changes_nothing(in_tmp: Path, target: str, reentrant: bool | None) -> None:
    plain = quick(adapter={"target_modules": [target, "encoder.layers.0.fc2"], "lora_dropout": 0.0})
    kwargs = {} if reentrant is None else {"activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    made = run(plain, "plain")
    saving = run(plain.override(train={"activation_checkpointing": True, **kwargs}), "saving")
    for one, two in zip(losses(made), losses(saving), strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("plain", "saving")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)
        assert "lora_B" not in name or tensor.abs().max() > 0, f"no gradient has reached {name}"
    clip = next((Path(str(made.recipe.data.source)) / "test").glob("*.flac"))
    assert saving.predict(clip) == made.predict(clip)


def test_every_weight_can_be_trained(in_tmp: Path) -> None:
    made = run(quick(adapter=None), "first")
    before = load_file(Path(recipe.sample["model"], "model.safetensors"))  # type: ignore[index]
    after = load_file("first/model/model.safetensors")
    assert before.keys() == after.keys()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert same == ["model.encoder.embed_positions.weight"]  # sinusoids, which Whisper never trains
    loaded = load_run("first")
    for name, weights in loaded.model.state_dict().items():
        assert torch.equal(weights, made.model.state_dict()[name])
    assert loaded.evaluate()["metrics"] == pytest.approx(made.summary["after"], rel=1e-5)
    assert not Path("first/model/adapter_config.json").exists()


FP4_TWICE = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "fp4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "float32",
}
NF4_ONCE = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}


@pytest.mark.parametrize(
    "quantization", ["4bit", "8bit", NF4_ONCE, FP4_TWICE], ids=["4bit", "8bit", "nf4", "fp4"]
)
def test_quantized_models_are_trained_saved_and_measured_again(
    in_tmp: Path, quantization: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("bitsandbytes")
    changes = {"model": {"quantization": quantization}, "train": {"max_steps": 2}}
    made = run(quick(**changes, eval={"before": True}), "first")
    kinds = {type(module).__name__ for module in made.model.modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert all(norm > 0 for _, norm in losses(made))
    assert made.summary["after"]["loss"] != made.summary["before"]["loss"]
    assert load_run("first").evaluate()["metrics"] == pytest.approx(made.summary["after"], rel=1e-5)
    assert "MatMul8bitLt" not in caplog.text


@pytest.mark.parametrize("window", ["fit", 5])
def test_short_windows(window: str | int, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = run(
        quick(whisper={"audio_window": window}, train={"max_steps": 6}, eval={"before": True}), "first"
    )
    after = made.summary["after"]
    assert set(after) == {"loss", "wer", "cer", "wer_raw", "cer_raw", "wer_full_window"}
    again = load_run("first")
    assert again.evaluate()["metrics"] == after
    clip = next((Path(str(made.recipe.data.source)) / "test").glob("*.flac"))
    assert again.predict(clip) == made.predict(clip)
    full = again.evaluate(settings={"whisper": {"audio_window": "full"}})["metrics"]
    assert full["wer"] == after["wer_full_window"]
    assert "wer_full_window" not in full
    exported = again.export("elsewhere", merge=True)
    assert exported["compared"]["unmerged"]["wer_full_window"] == after["wer_full_window"]
    further = run(quick(model="elsewhere", train={"max_steps": 1}), "further")
    assert "wer_full_window" in further.summary["after"]  # the exported model remembers its window
