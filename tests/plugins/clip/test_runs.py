"""Whole runs of a nano model through the core: what only shows there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPModel, CLIPVisionModel, SiglipModel, SiglipProcessor

from toolkit import DataError, ModelError, Recipe, RecipeError, load_run, run
from toolkit.cli import main

TRAIN = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "use_cpu": True,
    "save_strategy": "no",
}
LORA = {"r": 4, "target_modules": ["q_proj", "fc1"], "lora_dropout": 0.2}


def recipe(folder: str, **changes: Any) -> Recipe:
    made = Recipe(name="clip-contrastive", plugins=["clip"], model=folder, adapter=LORA, train=TRAIN)
    return made.override(**changes)


def lines(folder: str, split: str = "train") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["split"] == split]


def data(rows: Any, train: int = 10, test: int = 6) -> dict[str, Any]:
    return {"train": rows(train), "test": rows(test, 100)}


def test_parts_change_nothing(folder: str, rows: Any, in_tmp: Path) -> None:
    """Through the core: rows in parts of 1, 3 or all at once; loss, norm of the gradient, and weights."""
    adapter = {"lora_dropout": 0.0}
    for name, size in (("whole", None), ("ones", 1), ("threes", 3)):
        run(recipe(folder, adapter=adapter, clip={"micro_batch_size": size}), name, data=data(rows))
    weights = {
        name: load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "ones", "threes")
    }
    for other in ("ones", "threes"):
        for one, two in zip(lines("whole"), lines(other), strict=True):
            assert (one["loss"], one["grad_norm"]) == pytest.approx((two["loss"], two["grad_norm"]), rel=1e-4)
        for name, tensor in weights["whole"].items():
            torch.testing.assert_close(tensor, weights[other][name], rtol=1e-3, atol=2e-5)


def test_the_loss_is_the_mean_of_all_images(folder: str, rows: Any, in_tmp: Path) -> None:
    """With a learning rate of 0 the reported loss of a step is the evaluated loss of its rows."""
    still = {"learning_rate": 0.0, "max_steps": 1, "per_device_train_batch_size": 6}
    made = run(
        recipe(
            folder,
            adapter={"lora_dropout": 0.0},
            train={**still, "per_device_eval_batch_size": 6},
            data={"validation_fraction": 0.0},
        ),
        "first",
        data={"train": rows(6), "test": rows(6)},
    )
    assert lines("first")[0]["loss"] == pytest.approx(made.summary["after"]["loss"], rel=1e-4)
    assert made.summary["train"]["loss"] == pytest.approx(made.summary["after"]["loss"], rel=1e-4)


def test_accumulation_averages_and_says_so(
    folder: str, rows: Any, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"gradient_accumulation_steps": 2, "max_steps": 1, "logging_steps": 1}
    run(recipe(folder, train=changes), "first", data={"train": rows(8)})
    said = capsys.readouterr().err
    assert "train.gradient_accumulation_steps: the gradients of 2 batches are averaged" in said
    assert "raise train.per_device_train_batch_size" in " ".join(said.split())
    (line,) = lines("first")
    assert 0 < line["loss"] < 3 * torch.log(torch.tensor(4.0))
    run(recipe(folder), "second", data={"train": rows(8)})
    assert "are averaged" not in capsys.readouterr().err


def test_resumed_is_as_never_stopped(folder: str, rows: Any, in_tmp: Path) -> None:
    """A batch in parts, dropout, several captions an image and all that changes images; stopped within an epoch."""
    changes = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    settings = {"micro_batch_size": 2, "min_crop": 0.5, "flip": 0.5, "colour": 0.2}
    given = data(rows)
    for row in given["train"][::2]:
        row["caption"] = [row["caption"], "another", "a third"]
    run(recipe(folder, train=changes, clip=settings), "whole", data=given)
    run(recipe(folder, train=changes, clip=settings), "stopped", data=given)
    for gone in ("checkpoints/checkpoint-5", "model"):
        for path in Path("stopped", gone).iterdir():
            path.unlink()
    Path("stopped/summary.json").unlink()
    made = run(recipe(folder, train=changes, clip=settings), "stopped", data=given, resume=True)
    assert made.summary["train"]["resumed_from"] == 3
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert Path("whole/metrics.jsonl").read_text() == Path("stopped/metrics.jsonl").read_text()


def test_training_rows_are_changed_and_measured_ones_are_not(folder: str, rows: Any, in_tmp: Path) -> None:
    changed = {"min_crop": 0.3, "flip": 0.5, "colour": 0.5}
    made = [
        run(recipe(folder, clip=one), name, data=data(rows))
        for name, one in (("plain", {}), ("changed", changed))
    ]
    assert made[0].summary["before"] == made[1].summary["before"]
    assert made[0].summary["train"]["loss"] != made[1].summary["train"]["loss"]


@pytest.mark.parametrize("trained", ["all", "image", "text", "projections"])
def test_a_part_or_all_is_trained_and_saved_plainly(
    folder: str, rows: Any, in_tmp: Path, trained: str
) -> None:
    made = run(recipe(folder, adapter=None, clip={"trained": trained}), "first", data=data(rows))
    before, after = (load_file(Path(place, "model.safetensors")) for place in (folder, "first/model"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert (
        moved - {"logit_scale"}
        == {
            "all": {"vision_model", "text_model", "visual_projection", "text_projection"},
            "image": {"vision_model", "visual_projection"},
            "text": {"text_model", "text_projection"},
            "projections": {"visual_projection", "text_projection"},
        }[trained]
    )
    plain = CLIPModel.from_pretrained("first/model")
    for name, weights in plain.state_dict().items():
        assert torch.equal(weights, made.model.state_dict()[name]), name
    assert load_run("first").evaluate(data(rows))["metrics"] == pytest.approx(made.summary["after"], rel=1e-4)


def test_the_scale_of_a_run_is_held_and_reported(folder: str, rows: Any, in_tmp: Path) -> None:
    model = CLIPModel.from_pretrained(folder)
    model.logit_scale.data.fill_(5.5)
    model.save_pretrained(folder)
    made = run(recipe(folder, adapter=None, train={"learning_rate": 1e-6}), "first", data=data(rows))
    scales = [line["logit_scale"] for line in lines("first")]
    assert scales == pytest.approx([244.69, 100.0], rel=1e-3)
    assert float(made.model.logit_scale.detach().exp()) == pytest.approx(100)


@pytest.mark.parametrize("tower", ["vision_model", "text_model"])
def test_an_adapter_on_one_tower(folder: str, rows: Any, in_tmp: Path, tower: str) -> None:
    target = [f"{tower}.encoder.layers.*.self_attn.q_proj"]
    run(recipe(folder, adapter={"target_modules": target}), "first", data=data(rows))
    weights = load_file("first/model/adapter_model.safetensors")
    assert len(weights) == 4
    assert all(tower in name for name in weights)
    assert all(tensor.abs().max() > 0 for tensor in weights.values())


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_models_train_and_measure_the_same_again(
    folder: str, rows: Any, in_tmp: Path, quantization: str
) -> None:
    pytest.importorskip("bitsandbytes")
    changes: dict[str, Any] = {
        "model": {"name": folder, "quantization": quantization},
        "adapter": {"target_modules": "all-linear"},
        "clip": {"micro_batch_size": 2},
    }
    made = run(recipe(folder, **changes), "first", data=data(rows))
    assert {type(module).__name__ for module in made.model.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert all(line["grad_norm"] > 0 for line in lines("first"))
    again = load_run("first").evaluate(data(rows))["metrics"]
    assert again == pytest.approx(made.summary["after"], rel=1e-4)


def test_bfloat16_trains(folder: str, rows: Any, in_tmp: Path) -> None:
    """Both passes in mixed precision; the losses are near those of float32, and not the same."""
    plain = {"lora_dropout": 0.0}
    run(recipe(folder, adapter=plain), "full", data=data(rows))
    for name, size in (("mixed", None), ("parts", 2)):
        half = recipe(folder, adapter=plain, train={"bf16": True}, clip={"micro_batch_size": size})
        run(half, name, data=data(rows))
        pairs = [(one["loss"], two["loss"]) for one, two in zip(lines("full"), lines(name), strict=True)]
        assert pairs[0][0] != pairs[0][1]
        assert pairs[0][0] == pytest.approx(pairs[0][1], rel=0.1)


def test_random_weights_from_a_configuration(folder: str, rows: Any, in_tmp: Path) -> None:
    Path(folder, "model.safetensors").unlink()
    made = run(recipe(folder, model={"from_config": True}, adapter=None), "first", data=data(rows))
    assert made.summary["after"]["loss"] != made.summary["before"]["loss"]
    assert Path("first/model/model.safetensors").is_file()


def test_a_siglip_is_trained_by_its_own_loss_and_used(siglip_folder: str, rows: Any, in_tmp: Path) -> None:
    """Its bias trains too; what is saved gives plain transformers the same scores."""
    made = run(recipe(siglip_folder, adapter=None, clip={"micro_batch_size": 3}), "first", data=data(rows))
    before, after = (load_file(Path(place, "model.safetensors")) for place in (siglip_folder, "first/model"))
    assert not torch.equal(before["logit_bias"], after["logit_bias"])
    assert load_run("first").evaluate(data(rows))["metrics"] == pytest.approx(made.summary["after"], rel=1e-4)
    image, captions = rows(1)[0]["image"], ["no 003", "no"]
    processor = SiglipProcessor.from_pretrained("first/model")
    given = processor(images=Image.open(image), text=captions, padding="max_length", return_tensors="pt")
    with torch.no_grad():
        found = SiglipModel.from_pretrained("first/model").eval()(**given)
    scores = dict(zip(captions, (found.image_embeds @ found.text_embeds.T)[0].tolist(), strict=True))
    ours = {one["caption"]: one["score"] for one in made.predict([image, *captions])[0]}
    assert ours == pytest.approx(scores, abs=1e-4)


def test_a_siglip_by_the_other_loss_keeps_its_bias(siglip_folder: str, rows: Any, in_tmp: Path) -> None:
    run(recipe(siglip_folder, adapter=None, clip={"loss": "infonce"}), "first", data=data(rows))
    before, after = (load_file(Path(place, "model.safetensors")) for place in (siglip_folder, "first/model"))
    assert torch.equal(before["logit_bias"], after["logit_bias"])
    with pytest.raises(ModelError, match=r"clip\.trained: 'projections', but a SiglipModel has none"):
        run(recipe(siglip_folder, adapter=None, clip={"trained": "projections"}), "second", data=data(rows))


def test_bad_rows_go_into_quarantine(folder: str, rows: Any, in_tmp: Path) -> None:
    given = data(rows, train=12)
    half = Path(given["train"][3]["image"]).read_bytes()
    Path(given["train"][3]["image"]).write_bytes(half[: len(half) // 2])
    given["train"][5]["caption"] = " "
    allowed = {"max_bad_fraction": 0.2}
    made = run(recipe(folder, data=allowed, train={"max_steps": 3}), "first", data=given)
    assert made.summary["rows"]["quarantined"] == 2
    found = [json.loads(line) for line in Path("first/quarantine.jsonl").read_text().splitlines()]
    reasons = {one["row_id"]: one["reason"] for one in found}
    assert "breaks off or is damaged" in reasons[3]
    assert reasons[5].endswith("the caption is empty")
    with pytest.raises(DataError, match="cannot be used"):
        run(recipe(folder, data={"max_bad_fraction": 0.0}), "second", data=given)


def test_rows_of_one_image_stay_together(folder: str, rows: Any, in_tmp: Path) -> None:
    given = [{**row, "caption": f"{row['caption']} {n}"} for row in rows(10) for n in range(3)]
    given = [
        {"image": {"bytes": Path(row["image"]).read_bytes()}, "caption": row["caption"]} for row in given
    ]
    changes = {"data": {"validation_fraction": 0.2}, "train": {"eval_strategy": "no"}}
    made = run(recipe(folder, **changes), "first", data=given)
    assert (made.summary["rows"]["train"], made.summary["rows"]["validation"]) == (24, 6)
    found = [json.loads(line) for line in Path("first/samples.jsonl").read_text().splitlines()]
    assert len({one["row_id"] // 3 for one in found}) == 1, "the first three are of one image"


def test_labels_are_guessed(folder: str, rows: Any, in_tmp: Path) -> None:
    given = data(rows)
    for number, row in enumerate(given["test"]):
        row["label"] = ["cat", "dog", "cow"][number % 3]
    made = run(recipe(folder), "first", data=given)
    assert 0 <= made.summary["after"]["zero_shot_accuracy"] <= 1
    without = run(recipe(folder), "second", data=data(rows))
    assert "zero_shot_accuracy" not in without.summary["after"]


def test_the_best_model_is_chosen_by_a_recall_or_a_rank(folder: str, rows: Any, in_tmp: Path) -> None:
    given = {**data(rows), "validation": rows(6, 50)}
    for metric, higher in (("t2i_recall@5", True), ("i2t_median_rank", False)):
        best = {
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "max_steps": 3,
        }
        made = run(recipe(folder, train=best), metric, data=given)
        state = json.loads(Path(metric, "checkpoints/checkpoint-3/trainer_state.json").read_text())
        values = [line[metric] for line in lines(metric, "validation")][-3:]
        assert state["best_metric"] == (max if higher else min)(values)
        assert made.summary["status"] == "finished"


def test_predictions_on_the_command_line_and_in_python(
    folder: str, rows: Any, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(recipe(folder), "first", data=data(rows))
    one, two = (row["image"] for row in rows(2, 100))
    capsys.readouterr()
    assert main(["predict", "first", one, "a cat", two, "a dog", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert [pair["input"] for pair in found] == [one, two]
    assert all({"caption", "score"} == set(pair) for image in found for pair in image["output"])
    assert made.predict([one, "a cat", two, "a dog"]) == [pair["output"] for pair in found]
    assert main(["predict", "first", one, "a cat", "a dog"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == f"{one}:"
    assert shown[1].split() == [
        *found[0]["output"][0]["caption"].split(),
        f"{found[0]['output'][0]['score']:.4f}",
    ]
    assert main(["predict", "first", one]) == 2
    said = capsys.readouterr().err
    assert "error: no caption was given, only images" in said
    assert "hint: add captions to choose from: toolkit predict" in said


def test_a_language_model_given_to_clip_is_refused(in_tmp: Path, rows: Any, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    LlamaConfig(architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="not a CLIPModel"):
        run(recipe(str(tmp_path / "llama")), "first", data=data(rows))
    assert not Path("first").exists()


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_activation_checkpointing_changes_nothing(
    folder: str, rows: Any, in_tmp: Path, reentrant: bool | None
) -> None:
    plain = recipe(
        folder, adapter={"lora_dropout": 0.0}, clip={"micro_batch_size": 2}, eval={"before": False}
    )
    kwargs = {} if reentrant is None else {"activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    run(plain, "plain", data={"train": rows(8)})
    run(plain.override(train={"activation_checkpointing": True, **kwargs}), "saving", data={"train": rows(8)})
    for one, two in zip(lines("plain"), lines("saving"), strict=True):
        assert (one["loss"], one["grad_norm"]) == pytest.approx((two["loss"], two["grad_norm"]), rel=1e-4)
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("plain", "saving")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-5)
        assert "lora_B" not in name or tensor.abs().max() > 0, f"no gradient has reached {name}"


def test_an_adapter_is_trained_further(folder: str, rows: Any, in_tmp: Path) -> None:
    first = run(recipe(folder), "first", data=data(rows))
    second = run(recipe(str(Path("first/model").absolute()), adapter=None), "second", data=data(rows))
    assert second.summary["before"] == pytest.approx(first.summary["after"], rel=1e-4)
    one, two = (load_file(f"{name}/model/adapter_model.safetensors") for name in ("first", "second"))
    assert one.keys() == two.keys()
    assert all(not torch.equal(one[name], two[name]) for name in one)


def test_a_recipe_of_two_modalities_is_refused(folder: str, rows: Any, in_tmp: Path) -> None:
    with pytest.raises(RecipeError, match="plugins 'clip' and 'whisper' both answer toolkit_"):
        run(
            recipe(folder, plugins=["clip", "whisper"]),
            "first",
            data={"train": [{**row, "audio": "a", "text": "b"} for row in rows(4)]},
        )
    assert not Path("first").exists()


def test_objects_given_in_code_are_set_up_as_loaded_ones(nano: Any, rows: Any, in_tmp: Path) -> None:
    model, processor = nano
    mine = recipe("unused", adapter=None, clip={"trained": "projections"}, train={"max_steps": 1})
    run(mine, "given", data=data(rows), model=model, processor=processor)
    trained = {name for name, weights in model.named_parameters() if weights.requires_grad}
    assert trained == {"logit_scale", "visual_projection.weight", "text_projection.weight"}
    with pytest.raises(ModelError, match="without its processor"):
        run(mine, "bare", data=data(rows), model=model)
    with pytest.raises(ModelError, match="a CLIPVisionModel, no CLIP and no SigLIP"):
        run(
            mine,
            "part",
            data=data(rows),
            model=CLIPVisionModel(model.config.vision_config),
            processor=processor,
        )
