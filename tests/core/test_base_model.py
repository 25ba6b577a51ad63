from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import Install
from tests.core import tiny
from toolkit import CheckpointError, Recipe, load_run, run
from toolkit.base_model import as_begun, base_model, refuse_changed
from toolkit.cli import main
from toolkit.recipe import ModelSpec
from toolkit.runs import resume

LORA = {"r": 2, "target_modules": ["q_proj"]}
TRAIN = {"max_steps": 4, "save_steps": 2}


def save_model(folder: Path, seed: int) -> None:
    import torch

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                         num_attention_heads=2, pad_token_id=0, bos_token_id=1, eos_token_id=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def adapted(tiny_recipe: Recipe, in_tmp: Path) -> Recipe:
    """A recipe that puts an adapter on the model in `base`, with rows in `data`."""
    save_model(in_tmp / "base", seed=1)
    Path("data").mkdir()
    for split, count in (("train", 20), ("test", 6)):
        lines = [json.dumps(row) + "\n" for row in tiny.rows(count, seed=len(split))]
        Path(f"data/{split}.jsonl").write_text("".join(lines))
    return tiny_recipe.override(
        model="base", data={"source": "data", "validation_fraction": 0}, adapter=LORA, train=TRAIN
    )


LOADER = ("LlamaForCausalLM.from_pretrained(recipe.model.name)", "load_model(recipe.model, LlamaForCausalLM)")


@pytest.fixture
def loads_anything(adapted: Recipe, install: Install) -> Recipe:
    """The recipe with a plugin that loads by `toolkit.load_model`."""
    source = tiny.PLUGIN.replace("toolkit import", "toolkit import load_model,").replace(*LOADER)
    install("toolkit-any", plugins={"any": "toolkit_any"}, modules={"toolkit_any": source})
    return adapted.override(plugins=["any"])


# ---- what is written down ------------------------------------------------------------------------------------


def test_a_folder_is_known_by_its_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same in another format")
    spec = ModelSpec(name=str(tmp_path))
    assert base_model(spec) == {"name": str(tmp_path), "revision": None, "sha256": sha256(b"one")}


def test_several_files_of_weights_are_listed_as_sha256sum_does(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    listing = f"{sha256(b'a')}  a.safetensors\n{sha256(b'b')}  b.safetensors\n"
    assert base_model(ModelSpec(name=str(tmp_path)))["sha256"] == sha256(listing.encode())


@pytest.mark.parametrize("name", ["tiny", "acme/nowhere", "(given in code)"])
def test_what_is_nowhere_has_just_a_name(name: str) -> None:
    assert base_model(ModelSpec(name=name, revision="v1")) == {"name": name, "revision": "v1"}


def test_random_weights_are_not_those_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    spec = ModelSpec(name=str(tmp_path), from_config=True)
    assert "sha256" not in base_model(spec)


# ---- runs ----------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_is_based_on(adapted: Recipe) -> None:
    run(adapted, "first")
    recorded = json.loads(Path("first/environment.json").read_text())["base_model"]
    weights = Path("base/model.safetensors").read_bytes()
    assert recorded == {"name": str(Path("base").absolute()), "revision": None, "sha256": sha256(weights)}
    assert sha256(weights) in Path("first/model/README.md").read_text()


def test_a_run_whose_base_has_changed_is_refused(adapted: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    run(adapted, "first")
    then = base_model(ModelSpec(name="base"))["sha256"]
    save_model(Path("base"), seed=2)
    now = base_model(ModelSpec(name="base"))["sha256"]
    with pytest.raises(CheckpointError, match=f"have changed .*{now[:12]}… now, {then[:12]}… then"):
        load_run("first")
    capsys.readouterr()
    for command in (["eval", "first"], ["predict", "first", "3 4 5"], ["export", "first", "--to", "out"]):
        assert main(command) == 2
        assert capsys.readouterr().err.startswith("error: the weights of the base model ")
    assert not Path("out").exists()


def test_nor_does_such_a_run_go_on(adapted: Recipe) -> None:
    run(adapted, "first")
    Path("first/summary.json").unlink()
    save_model(Path("base"), seed=2)
    with pytest.raises(CheckpointError, match="have changed"):
        resume("first")


def test_all_weights_need_no_base(adapted: Recipe) -> None:
    run(adapted.override(adapter=None), "first")
    shutil.rmtree("base")
    assert load_run("first").evaluate()["rows"] == 6


def test_a_base_that_has_moved_can_be_named(adapted: Recipe) -> None:
    result = run(adapted, "first")
    Path("base").rename("elsewhere")
    with pytest.raises(CheckpointError, match="is gone") as caught:
        load_run("first")
    assert "recipe.yaml" in str(caught.value.hint)
    result.recipe.override(model="elsewhere").resolved().dump("first/recipe.yaml")
    assert load_run("first").evaluate()["metrics"] == pytest.approx(result.summary["after"], rel=1e-5)


@pytest.mark.parametrize("damage", ["cut off", "a weight is missing"])
def test_a_damaged_adapter_is_refused(adapted: Recipe, damage: str) -> None:
    run(adapted, "first")
    path = Path("first/model/adapter_model.safetensors")
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        weights = load_file(path)
        save_file(dict(list(weights.items())[1:]), path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="is damaged or incomplete"):
        load_run("first").evaluate()


def test_runs_that_recorded_nothing_still_load(adapted: Recipe) -> None:
    run(adapted, "first")
    facts = json.loads(Path("first/environment.json").read_text())
    del facts["base_model"]
    Path("first/environment.json").write_text(json.dumps(facts))
    assert load_run("first").evaluate()["rows"] == 6


def test_a_hub_model_is_loaded_as_it_was_though_its_branch_has_moved(
    loads_anything: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    for letter in "ab":
        save_model(repository / "snapshots" / (letter * 40), seed=ord(letter))
    (repository / "refs" / "main").write_text("a" * 40)
    result = run(loads_anything.override(model="acme/tiny"), "first")
    (repository / "refs" / "main").write_text("b" * 40)
    recorded = json.loads(Path("first/environment.json").read_text())["base_model"]
    assert recorded == {"name": "acme/tiny", "revision": None, "commit": "a" * 40}
    assert load_run("first").evaluate()["metrics"] == pytest.approx(result.summary["after"], rel=1e-5)
    shutil.copytree("first", "second")
    for gone in ("second/model", "second/checkpoints/checkpoint-4"):
        shutil.rmtree(gone)
    Path("second/summary.json").unlink()
    again = run(result.recipe.override(cache={"max_gb": 1}), "second", resume=True)
    assert (again.summary["train"]["resumed_from"], again.summary["after"]) == (2, result.summary["after"])
    environment = json.loads(Path("second/environment.json").read_text())
    assert environment["changes"]
    assert environment["base_model"] == recorded


def test_an_adapter_that_is_trained_further_has_the_base_it_had(loads_anything: Recipe) -> None:
    run(loads_anything, "first")
    second = run(
        loads_anything.override(model="first/model", train={"learning_rate": 0.1, "max_steps": 12}), "second"
    )
    first, its = (
        json.loads(Path(folder, "environment.json").read_text())["base_model"]
        for folder in ("first", "second")
    )
    assert its == first
    loaded = load_run("second")
    assert loaded.evaluate()["metrics"] == pytest.approx(second.summary["after"], rel=1e-5)
    assert second.summary["after"] != pytest.approx(second.summary["before"], rel=1e-3)
    loaded.export("merged", merge=True)
    save_model(Path("base"), seed=2)
    with pytest.raises(CheckpointError, match="have changed"):
        load_run("second")


def test_the_commit_is_for_the_model_that_had_it() -> None:
    recorded = {"name": "acme/tiny", "revision": None, "commit": "a" * 40}
    assert as_begun(ModelSpec(name="acme/tiny"), recorded) == "a" * 40
    assert as_begun(ModelSpec(name="acme/other", revision="v2"), recorded) == "v2"
    assert as_begun(ModelSpec(name="acme/tiny", revision="v2"), recorded) == "v2"
    assert as_begun(ModelSpec(name="acme/tiny", revision="v2"), {}) == "v2"
    refuse_changed(ModelSpec(name="acme/tiny"), recorded)
