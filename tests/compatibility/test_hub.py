"""Models are pushed to a hub: a real server on loopback, as far as its protocol goes without Xet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers.utils.hub
from safetensors.torch import load

from tests.compatibility.bench import trained, trainer
from tests.compatibility.hub_server import Hub, hub
from tests.core.test_runs import SPLITS
from toolkit import ModelError, Recipe, run

pytestmark = pytest.mark.usefixtures("in_tmp")
TOKEN = "right"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub() as running:
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "ENDPOINT", running.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        yield running


def test_push_to_hub(server: Hub) -> None:
    """As older scripts call it, with `commit_message` and `blocking`."""
    made, _ = trained(
        max_steps=1, push_to_hub=True, hub_token=TOKEN, hub_model_id="acme/tiny", save_strategy="no"
    )
    made.push_to_hub(commit_message="End of training", blocking=True)
    files = server.files["acme/tiny"]
    assert ("acme/tiny", "End of training") in server.commits
    assert {"README.md", "config.json", "model.safetensors"} <= set(files)
    saved = load(files["model.safetensors"])
    assert torch.equal(saved["model.norm.weight"], made.model.model.norm.weight)
    nothing_leaked(files)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_checkpoints_are_pushed_without_the_arguments(server: Hub, strategy: str) -> None:
    made, _ = trained(
        max_steps=2, save_steps=1, push_to_hub=True, hub_token=TOKEN, hub_model_id="acme/tiny",
        hub_strategy=strategy, hub_always_push=True,
    )  # fmt: skip
    made._finish_current_push()
    files = server.files["acme/tiny"]
    assert "model.safetensors" in files
    assert ("acme/tiny", "Training in progress, step 2") in server.commits
    whole = {
        "every_save": set(),
        "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-1", "checkpoint-2"},
    }
    assert {path.split("/")[0] for path in files if path.endswith("optimizer.pt")} == whole[strategy]
    nothing_leaked(files)


def nothing_leaked(files: dict[str, bytes]) -> None:
    assert not [path for path in files if path.endswith("training_args.bin")]
    assert not [path for path, content in files.items() if TOKEN.encode() in content]


def test_init_hf_repo(server: Hub) -> None:
    made, _ = trainer(hub_token=TOKEN)
    made.init_hf_repo()
    assert made.hub_model_id == "me/out"
    assert list(server.files) == ["me/out"]


def test_a_run_pushes_its_model_folder(server: Hub, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.override(train={"push_to_hub": True, "hub_token": TOKEN, "hub_model_id": "acme/run"})
    result = run(recipe, "first", data=SPLITS)
    files = server.files["acme/run"]
    assert {path: Path("first/model", path).read_bytes() for path in files} == files
    assert {"README.md", "model.safetensors"} <= set(files)
    assert server.commits == [("acme/run", "End of training")]
    assert not [
        path for path in result.folder.rglob("*") if path.is_file() and b"hub_token" in path.read_bytes()
    ]


def test_a_run_is_refused_before_it_trains(server: Hub, tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.override(train={"push_to_hub": True, "hub_token": "wrong"})
    with pytest.raises(ModelError, match=r"the repository 'first' cannot be had: .*401") as error:
        run(recipe, "first", data=SPLITS)
    assert error.value.hint == "log in with `hf auth login`, or leave train.push_to_hub out"
    assert not Path("first").exists()


def test_a_hub_that_fails_at_the_end_loses_nothing(
    server: Hub, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server.RequestHandlerClass, "commit", lambda self, *args: self.answer({"error": "full"}, 507)
    )
    recipe = tiny_recipe.override(train={"push_to_hub": True, "hub_token": TOKEN})
    with pytest.raises(ModelError, match="could not be pushed to 'me/first'") as error:
        run(recipe, "first", data=SPLITS)
    assert "hf upload me/first" in str(error.value.hint)
    assert run(recipe, "first", data=SPLITS, resume=True).summary["status"] == "finished"
