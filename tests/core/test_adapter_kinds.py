"""The kinds of adapters that PEFT has: each by its name, as far as the model allows."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file

from tests.core import tiny
from tests.core.test_adapters import clip, llama, whisper
from tests.core.test_runs import lines
from toolkit import Recipe, load_run, run
from toolkit.adalora import orthogonality
from toolkit.adapters import adapt
from toolkit.errors import RecipeError
from toolkit.trainer import Trainer

QV = {"target_modules": ["q_proj", "v_proj"]}
IDS = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
INPUTS: dict[Any, dict[str, torch.Tensor]] = {
    llama: {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)},
    whisper: {"input_features": torch.ones(2, 8, 40), "decoder_input_ids": IDS},
    clip: {
        "input_ids": IDS,
        "attention_mask": torch.ones_like(IDS),
        "pixel_values": torch.ones(2, 3, 16, 16),
    },
}
IN_MODULES: list[dict[str, Any]] = [
    {"kind": "lora", **QV},
    {"kind": "adalora", **QV},
    {"kind": "ia3", "target_modules": ["k_proj", "v_proj"], "feedforward_modules": ["v_proj"]},
    {"kind": "vera", **QV},
    {"kind": "loha", **QV},
    {"kind": "lokr", **QV},
    {"kind": "oft", "r": 0, "oft_block_size": 4, **QV},
    {"kind": "boft", **QV},
    {"kind": "hra", **QV},
    {"kind": "randlora", **QV},
    {"kind": "fourierft", "n_frequency": 20, **QV},
    {"kind": "delora", **QV},
    {"kind": "miss", "r": 4, **QV},
    {"kind": "ln_tuning", "target_modules": ".*norm.*"},
]


def first(outputs: Any) -> torch.Tensor:
    found: torch.Tensor = outputs.logits if "logits" in outputs else outputs.logits_per_text
    return found


def train(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        first(model(**inputs)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("build", [llama, whisper, clip])
@pytest.mark.parametrize("adapter", IN_MODULES, ids=lambda adapter: adapter["kind"])
def test_each_kind_trains_and_is_loaded_again(
    adapter: dict[str, Any], build: Callable[[], Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    base = build()
    torch.manual_seed(0)
    model = adapt(build(), adapter)
    kind = adapter["kind"].upper()
    assert {one.peft_type for one in model.peft_config.values()} == {kind}
    train(model, INPUTS[build])
    with torch.no_grad():
        expected = first(model.eval()(**INPUTS[build]))
        assert not torch.allclose(expected, first(base.eval()(**INPUTS[build])))
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(first(again(**INPUTS[build])), expected)


@pytest.mark.parametrize(
    ("kind", "known_as"),
    [("prompt", "PROMPT_TUNING"), ("prompt_tuning", "PROMPT_TUNING"), ("prefix", "PREFIX_TUNING"),
     ("p_tuning", "P_TUNING")],
)  # fmt: skip
def test_virtual_tokens(kind: str, known_as: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = adapt(llama(), {"kind": kind, "num_virtual_tokens": 3})
    assert model.active_peft_config.peft_type == known_as
    train(model, INPUTS[llama])
    model.save_pretrained(tmp_path)
    torch.manual_seed(0)
    again = peft.PeftModel.from_pretrained(llama(), tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(first(again(**INPUTS[llama])), first(model.eval()(**INPUTS[llama])))


@pytest.mark.parametrize("build", [whisper, clip])
def test_virtual_tokens_need_a_model_that_continues_text(build: Any) -> None:
    with pytest.raises(RecipeError, match="virtual tokens are for models that go on writing") as caught:
        adapt(build(), {"kind": "prompt", "num_virtual_tokens": 3})
    assert caught.value.hint == "choose a kind that adapts modules, such as lora or ia3"


@pytest.mark.parametrize(
    ("adapter", "message", "hint"),
    [
        ({"kind": "ia4"}, 'no adapter named "ia4"', "did you mean 'ia3'?"),
        ({"kind": "none"}, 'no adapter named "none"', "there are: "),
        ({"kind": "xlora"}, "needs adapters that are trained already", "toolkit.run(recipe, model=...)"),
        ({"kind": "poly"}, "needs the number of a task beside each row", "toolkit.run(recipe, model=...)"),
        ({"kind": "ia3", "lora_alpha": 3}, "adapter.lora_alpha: unknown key 'lora_alpha'", "known keys: "),
        ({"kind": "vera", "r": 0, **QV}, "adapter.r: must be at least 1, found 0", "8 to 64"),
        ({"kind": "vera", "vera_dropout": 1, **QV}, "adapter.vera_dropout: must be at least 0", "0.05"),
        ({"kind": "prompt", "num_virtual_tokens": "3"}, "adapter.num_virtual_tokens: ", "whole number"),
        ({"kind": "vera", "target_modules": ["q_prj"]}, "'q_prj' matched no module", "q_proj"),
        ({"kind": "miss", "r": 64, **QV}, "must be less than or equal to in_features", "see peft.MissConfig"),
    ],
)
def test_faults(adapter: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        adapt(llama(), adapter)
    assert message in str(caught.value)
    assert hint in str(caught.value.hint)


def test_another_kind_has_none_of_the_settings_of_the_one_before() -> None:
    recipe = Recipe(
        name="mine", plugins=["causal-lm"], model="sample", data="sample", adapter={"r": 16, **QV, "lora_alpha": 3},
        sample={"model": "m", "data": "d", "adapter": {"r": 4}},
    )  # fmt: skip
    ia3 = recipe.override(adapter={"kind": "ia3", "target_modules": ["k_proj"]})
    assert ia3.adapter == {"kind": "ia3", "target_modules": ["k_proj"]}
    assert "adapter" not in (ia3.sample or {})
    assert recipe.override(adapter={"kind": "lora", "r": 2}).adapter == {
        **(recipe.adapter or {}),
        "kind": "lora",
        "r": 2,
    }
    assert ia3.override(adapter={"target_modules": ["v_proj"]}).adapter == {
        "kind": "ia3",
        "target_modules": ["v_proj"],
    }


# ---- AdaLoRA, which has a part in the loop -------------------------------------------------------------------

SPLITS = {"train": tiny.rows(24), "test": tiny.rows(8, seed=3)}


@pytest.fixture
def recipe(tiny_recipe: Recipe, in_tmp: Path) -> Recipe:
    """AdaLoRA on a model that is in a folder."""
    torch.manual_seed(0)
    llama().save_pretrained("base")
    return tiny_recipe.override(model="base", adapter=ADALORA)


ADALORA = {"kind": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4, **QV}


def ranks(model: Any) -> list[int]:
    """How many of the four ranks of each module are not zero."""
    return [int((one != 0).sum()) for name, one in model.named_parameters() if "lora_E" in name]


def test_adalora_shares_out_the_ranks(recipe: Recipe) -> None:
    result = run(recipe, "run", data=SPLITS)
    assert sum(ranks(result.model)) == 2 * 4  # target_r a module, for the four of them
    assert len(set(ranks(result.model))) > 1
    assert result.summary["after"]["loss"] < result.summary["before"]["loss"]
    assert ranks(load_run("run").model) == ranks(result.model)
    assert load_run("run").evaluate(data=SPLITS)["metrics"] == result.summary["after"]


@pytest.mark.parametrize("resumed_from", [8, 16])
def test_adalora_resumed_is_as_never_stopped(resumed_from: int, recipe: Recipe) -> None:
    """From a step before the ranks are final, which they are four steps before the end, and from one after."""
    whole = run(recipe, "whole", data=SPLITS)
    stopped = run(recipe, "stopped", data=SPLITS)
    for step in range(resumed_from + 1, 19):
        shutil.rmtree(stopped.folder / "checkpoints" / f"checkpoint-{step}", ignore_errors=True)
    for gone in ("summary.json", "model/adapter_model.safetensors"):
        (stopped.folder / gone).unlink()
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == resumed_from
    expected, found = (load_file(one.folder / "model/adapter_model.safetensors") for one in (whole, again))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert again.summary["after"] == whole.summary["after"]


@pytest.mark.parametrize("best", [6, 16])
def test_adalora_takes_up_its_best_weights(
    best: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a step before the ranks are final, and of one after."""
    judge = Trainer._determine_best_metric

    def judged(trainer: Trainer, metrics: dict[str, float], trial: Any) -> bool:
        loss = 1.0 if trainer.state.global_step == best else 2.0
        return bool(judge(trainer, {**metrics, "eval_loss": loss}, trial))

    monkeypatch.setattr(Trainer, "_determine_best_metric", judged)
    train = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    result = run(recipe.override(train=train), "run", data={**SPLITS, "validation": SPLITS["test"]})
    [measured] = [
        line for line in lines(Path("run")) if line["step"] == best and line["split"] == "validation"
    ]
    found = load_run("run").evaluate(data=SPLITS)["metrics"]
    assert found["loss"] == result.summary["after"]["loss"] == pytest.approx(measured["loss"], rel=1e-6)


def test_adalora_penalty_is_pefts() -> None:
    torch.manual_seed(0)
    model = adapt(llama(), {**ADALORA, "total_step": 20})
    outputs = model.base_model(input_ids=IDS, labels=IDS)
    plain = torch.nn.functional.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
    torch.testing.assert_close(outputs.loss - plain, orthogonality(model.base_model), rtol=1e-4, atol=1e-6)


def test_adalora_without_steps_to_share_out_in(recipe: Recipe) -> None:
    recipe = recipe.override(adapter={"tinit": 10}, train={"max_steps": 14})
    with pytest.raises(RecipeError, match="tinit 10 and tfinal 4 leave none of the 14 steps"):
        run(recipe, "run", data=SPLITS)


# ---- LoftQ in a recipe ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quantization", "settings", "message", "hint"),
    [
        (
            "none",
            {},
            "'loftq' makes up for quantization, and the model is not",
            "--set model.quantization=4bit",
        ),
        ("4bit", {"loftq_iter": 3}, "3 iterations would change the quantized weights", "leave it at 1"),
    ],
)
def test_loftq_needs_a_quantized_model(
    quantization: str, settings: Any, message: str, hint: str, tiny_recipe: Recipe
) -> None:
    adapter = {"init_lora_weights": "loftq", "loftq_config": settings, **QV}
    with pytest.raises(RecipeError) as caught:
        tiny_recipe.override(adapter=adapter, model={"quantization": quantization}).validate()
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_a_run_that_starts_from_loftq(tiny_recipe: Recipe, in_tmp: Path) -> None:
    torch.manual_seed(0)
    llama().save_pretrained("base")
    recipe = tiny_recipe.override(model={"name": "base", "quantization": "4bit"}, adapter={**QV, "r": 8})
    plain = run(recipe, "plain", data=SPLITS)
    made = run(recipe.override(adapter={"init_lora_weights": "loftq"}), "loftq", data=SPLITS)
    exact = run(recipe.override(model={"quantization": "none"}), "exact", data=SPLITS).summary["before"][
        "loss"
    ]
    errors = [abs(one.summary["before"]["loss"] - exact) for one in (plain, made)]
    assert errors[1] < errors[0]
    assert load_run("loftq").evaluate(data=SPLITS)["metrics"] == made.summary["after"]
