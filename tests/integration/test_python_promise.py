"""What DESIGN's section 5 promises to a program that imports `toolkit`, with real objects."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from toolkit_tasks import causal_lm, clip_contrastive, whisper_asr
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPModel,
    CLIPProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

import toolkit
from toolkit import (
    LoraConfig,
    Loss,
    Recipe,
    Run,
    Trainer,
    TrainingArguments,
    adapt,
    load_model,
    load_run,
    run,
)

QUICK: dict[str, Any] = {
    "train": {"max_steps": 2, "per_device_train_batch_size": 4, "eval_strategy": "no", "save_strategy": "no"},
    "eval": {"max_samples": 4},
    "data": {"limit": 8},
}
RECIPES = {task.recipe.name: task.recipe for task in (causal_lm, clip_contrastive, whisper_asr)}


def sample(recipe: Recipe) -> Path:
    return Path(recipe.sample["model"]).parent  # type: ignore[index]


# ---- recipes -------------------------------------------------------------------------------------------


def test_every_promised_name_is_public() -> None:
    promised = (
        "Recipe run load_run Trainer TrainingArguments LoraConfig adapt load_model Loss Metric hookimpl"
    )
    for name in promised.split():
        assert name in toolkit.__all__
        assert getattr(toolkit, name).__module__.startswith(("toolkit.", "peft.", "pluggy."))


def test_override_merges_deeply_and_none_removes() -> None:
    recipe = whisper_asr.recipe
    before = recipe.as_dict()
    mine = recipe.override(model="openai/whisper-small", train={"learning_rate": 1e-5, "warmup_steps": None})
    assert (mine.model.name, mine.train["learning_rate"]) == ("openai/whisper-small", 1e-5)
    assert "warmup_steps" in recipe.train
    kept = {key: value for key, value in recipe.train.items() if key not in ("learning_rate", "warmup_steps")}
    assert mine.train == {**kept, "learning_rate": 1e-5}
    assert mine.override(adapter=None).adapter is None
    assert recipe.as_dict() == before


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_loaded_dumped_and_validated(name: str, tmp_path: Path) -> None:
    mine = RECIPES[name].override(train={"learning_rate": 2e-5})
    mine.dump(tmp_path / "my.yaml")
    assert Recipe.load(tmp_path / "my.yaml") == Recipe.load(str(tmp_path / "my.yaml")) == mine
    assert Recipe.load(name) == RECIPES[name]
    mine.validate()
    with pytest.raises(toolkit.RecipeError, match="learning_rte"):
        mine.override(train={"learning_rte": 1}).validate()


# ---- runs ----------------------------------------------------------------------------------------------


def clips() -> list[dict[str, Any]]:
    folder = sample(whisper_asr.recipe) / "data" / "test"
    lines = list(csv.DictReader((folder / "metadata.csv").open()))
    return [{"audio": str(folder / line["file_name"]), "text": line["text"]} for line in lines[:8]]


def pictures() -> datasets.Dataset:
    folder = sample(clip_contrastive.recipe) / "data" / "test"
    lines = list(csv.DictReader((folder / "metadata.csv").open()))
    rows = [{"image": str(folder / line["file_name"]), "caption": line["caption"]} for line in lines[:8]]
    return datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())


class Questions(torch.utils.data.Dataset[dict[str, str]]):
    """A map-style dataset of torch's kind."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, str]:
        if index >= len(self):
            raise IndexError(index)
        return {"prompt": f"What is {index} plus one?", "completion": f"{index + 1}."}


def test_rows_model_and_processor_may_be_objects_of_speech(in_tmp: Path) -> None:
    folder, rows = sample(whisper_asr.recipe) / "model", clips()
    model, processor = (
        kind.from_pretrained(folder) for kind in (WhisperForConditionalGeneration, WhisperProcessor)
    )
    result = run(whisper_asr.recipe.override(**QUICK), "first", data=rows, model=model, processor=processor)
    used(result, [rows[0]["audio"]], "wer")


def test_rows_model_and_processor_may_be_objects_of_pictures(in_tmp: Path) -> None:
    folder, rows = sample(clip_contrastive.recipe) / "model", pictures()
    model, processor = (kind.from_pretrained(folder) for kind in (CLIPModel, CLIPProcessor))
    data = datasets.DatasetDict({"train": rows, "test": rows})
    result = run(
        clip_contrastive.recipe.override(**QUICK), "first", data=data, model=model, processor=processor
    )
    image = sample(clip_contrastive.recipe) / "data" / "test" / "test_000.png"
    used(result, [str(image), "a red square", "a blue circle"], "t2i_recall@1")


def test_rows_model_and_processor_may_be_objects_of_text(in_tmp: Path) -> None:
    folder = sample(causal_lm.recipe) / "model"
    model, processor = (kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    mine = causal_lm.recipe.override(**QUICK, adapter=None)
    data = {"train": Questions(), "test": Questions()}
    result = run(mine, "first", data=data, model=model, processor=processor)
    assert result.model is model
    used(result, ["What is 3 plus one?"], "perplexity")


def used(result: Run, inputs: list[str], metric: str) -> None:
    """What comes back is a whole run: measured, in its folder, and the same when it is taken up again."""
    summary = result.summary
    assert (summary["status"], summary["train"]["steps"]) == ("finished", 2)
    assert metric in summary["before"]
    assert math.isfinite(summary["after"]["loss"])
    predicted, measured = result.predict(inputs), result.evaluate()
    assert measured["metrics"] == pytest.approx(summary["after"])
    again = load_run("first")
    assert again.summary == summary
    if result.recipe.model.name == "(given in code)":
        with pytest.raises(toolkit.ModelError, match="given in code"):
            again.predict(inputs)
    else:  # it has the name of the folder it was loaded from
        assert again.predict(inputs) == predicted


def test_a_recipe_alone_is_enough(in_tmp: Path) -> None:
    result = run(causal_lm.recipe.override(**QUICK), output_dir="first")
    used(result, ["Which day comes after Monday?"], "perplexity")


# ---- without a recipe ----------------------------------------------------------------------------------


def a_llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=16, **sizes, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    )


def test_the_trainer_alone_trains_an_adapted_model(tmp_path: Path) -> None:
    model = adapt(a_llama(), LoraConfig(r=2, target_modules=["layers.*.self_attn.q_proj"]))
    trainable = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert len(trainable) == 4  # A and B in each of two layers
    ids = torch.arange(3, 11).repeat(8, 1)
    rows = [{"input_ids": row, "labels": row} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", use_cpu=True, learning_rate=0.1
    )
    before = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    Trainer(model=model, args=arguments, train_dataset=rows).train()
    changed = {name for name, weights in model.named_parameters() if not torch.equal(weights, before[name])}
    assert changed == trainable


def test_a_model_is_loaded_in_four_bits() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = load_model(str(sample(causal_lm.recipe) / "model"), AutoModelForCausalLM, load_in_4bit=True)
    kinds = {type(module) for module in model.model.layers.modules()}
    assert bitsandbytes.nn.Linear4bit in kinds
    assert torch.nn.Linear not in kinds


def test_a_loss_is_a_sum_and_its_count() -> None:
    loss = Loss(torch.tensor(6.0), 3, report={"width": 2.0})
    assert float(loss.total) / loss.count == 2.0
    with pytest.raises(AttributeError):
        loss.count = 4  # type: ignore[misc]
