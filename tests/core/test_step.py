"""A training step of a plugin's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Install
from tests.core.tiny import rows
from toolkit import Recipe, run

STEP = '''
"""The tiny plugin's loss as a step, computed in two parts that are handed over one after the other."""
from toolkit import Loss, hookimpl
import toolkit_tiny

def rows_of(batch, rows):
    part = {key: batch[key][rows] for key in ("input_ids", "attention_mask", "labels")}
    return {**part, "num_targets": int((part["labels"][:, 1:] != -100).sum())}

@hookimpl
def toolkit_step():
    loss = toolkit_tiny.toolkit_loss()
    def step(model, batch, backward):
        total = 0
        for rows in (slice(0, 1), slice(1, None)):
            part = loss(model, rows_of(batch, rows)).total
            backward(part)
            total += part.detach()
        return Loss(total, batch["num_targets"], report={"parts": 2.0})
    return step
'''


@pytest.fixture
def stepping(tiny_recipe: Recipe, install: Install) -> Recipe:
    install("toolkit-stepping", plugins={"stepping": "toolkit_stepping"}, modules={"toolkit_stepping": STEP})
    return tiny_recipe.override(plugins=["tiny", "stepping"])


def trained(folder: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == "train"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_does_what_the_core_does_changes_nothing(
    tiny_recipe: Recipe, stepping: Recipe, in_tmp: Path, accumulation: int
) -> None:
    """The same losses, gradients and weights, by the line and in the summary."""
    changes = {"max_steps": 4, "logging_steps": 1, "gradient_accumulation_steps": accumulation}
    made = [
        run(recipe.override(train=changes), name, data=rows(16))
        for name, recipe in (("core", tiny_recipe), ("own", stepping))
    ]
    for one, two in zip(trained("core"), trained("own"), strict=True):
        assert (one["loss"], one["grad_norm"]) == pytest.approx((two["loss"], two["grad_norm"]), rel=1e-5)
        assert two["parts"] == 2.0
    losses = [one.summary["train"]["loss"] for one in made]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    weights = [load_file(f"{name}/model/model.safetensors") for name in ("core", "own")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)


def test_it_is_resumed_as_if_never_stopped(stepping: Recipe, in_tmp: Path) -> None:
    stepping = stepping.override(train={"max_steps": 6, "logging_steps": 1}, tiny={"dropout": 0.2})
    for name in ("whole", "stopped"):
        run(stepping, name, data=rows(16))
    for gone in ("model", "checkpoints/checkpoint-6"):
        for path in Path("stopped", gone).iterdir():
            path.unlink()
    Path("stopped/summary.json").unlink()
    run(stepping, "stopped", data=rows(16), resume=True)
    weights = [load_file(f"{name}/model/model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Path("whole/metrics.jsonl").read_text() == Path("stopped/metrics.jsonl").read_text()


def test_accumulating_is_said_to_be_no_larger_batch(
    tiny_recipe: Recipe, stepping: Recipe, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, recipe in (("core", tiny_recipe), ("own", stepping)):
        run(recipe.override(train={"max_steps": 1, "gradient_accumulation_steps": 2}), name, data=rows(16))
        said = "which is not one batch of all their rows" in capsys.readouterr().err
        assert said == (name == "own")
