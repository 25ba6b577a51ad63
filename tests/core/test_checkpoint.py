from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from toolkit import CheckpointError
from toolkit import checkpoint as ck


def write_state(folder: Path, state: Any) -> None:
    (folder / "trainer_state.json").write_text(json.dumps(state))


def write(parent: Path, step: int, *, finished: bool = True) -> Path:
    folder = parent / f"checkpoint-{step}"
    (folder / "adapter").mkdir(parents=True)
    (folder / "weights.bin").write_bytes(bytes(range(200)))
    (folder / "adapter" / "more.bin").write_bytes(b"x" * step)
    write_state(folder, {"global_step": step, "log_history": []})
    if finished:
        ck.complete(folder)
    return folder


def test_the_newest_is_by_number_not_by_name_or_time(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        write(tmp_path, step)
    assert ck.newest(tmp_path) == tmp_path / "checkpoint-100"
    assert ck.newest(tmp_path / "gone") is None


def test_what_merely_looks_like_a_checkpoint_is_none(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    (tmp_path / "8").mkdir()
    assert ck.ordered(tmp_path) == [tmp_path / "checkpoint-5"]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[77] ^= 1
    path.write_bytes(bytes(data))


def naming(folder: Path, name: str) -> None:
    (folder.parent / "secret").touch()
    manifest = ck.read_json(folder / "manifest.json")
    manifest["files"][name] = {"size": 0, "sha256": "x"}
    ck.write_json(folder / "manifest.json", manifest)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "weights.bin").unlink(), "'weights.bin' is missing"),
        (
            lambda folder: (folder / "weights.bin").write_bytes(b"short"),
            "'weights.bin' is not as it was written",
        ),
        (lambda folder: flip(folder / "weights.bin"), "'weights.bin' is not as it was written"),
        (lambda folder: naming(folder, "/dev/zero"), "'/dev/zero' is no file of the checkpoint"),
        (lambda folder: naming(folder, "../secret"), "'../secret' is no file of the checkpoint"),
        (lambda folder: naming(folder, "."), "'.' is no file of the checkpoint"),
        (lambda folder: piped(folder / "weights.bin"), "'weights.bin' is no file of the checkpoint"),
        (lambda folder: piped(folder / "manifest.json"), "it has no readable manifest"),
        (lambda folder: (folder / "manifest.json").unlink(), "it has no readable manifest"),
        (lambda folder: (folder / "manifest.json").write_text('{"files'), "it has no readable manifest"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "it has no readable manifest"),
        (
            lambda folder: (folder / "manifest.json").write_text('{"files": []}'),
            "it has no readable manifest",
        ),
        (
            lambda folder: (folder / "manifest.json").write_text('{"files": {"a": 1}}'),
            "it has no readable manifest",
        ),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, spoil, reason: str) -> None:  # type: ignore[no-untyped-def]
    good, damaged = write(tmp_path, 10), write(tmp_path, 20)
    assert ck.newest(tmp_path) == damaged
    spoil(damaged)
    assert ck.damage(damaged) == reason
    assert ck.newest(tmp_path) == good


def test_what_is_set_aside_counts_as_none_and_replaces_an_earlier_one(tmp_path: Path) -> None:
    for text in ("earlier", "later"):
        (write(tmp_path, 20) / "weights.bin").write_text(text)
        assert ck.set_aside(tmp_path / "checkpoint-20") == tmp_path / "checkpoint-20.damaged"
    assert (tmp_path / "checkpoint-20.damaged" / "weights.bin").read_text() == "later"
    assert ck.ordered(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-20.damaged"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ([], "'trainer_state.json' cannot be read"),
        ({"global_step": 20}, "'trainer_state.json' holds no log"),
        ({"global_step": 20, "log_history": ["a"]}, "'trainer_state.json' holds no log"),
        ({"global_step": 10, "log_history": []}, "'trainer_state.json' is of another step"),
        ({"global_step": "20", "log_history": []}, "'trainer_state.json' is of another step"),
    ],
)
def test_nonsense_that_is_as_it_was_written_is_damage(tmp_path: Path, state: Any, reason: str) -> None:
    good, damaged = write(tmp_path, 10), write(tmp_path, 20, finished=False)
    write_state(damaged, state)
    ck.complete(damaged)
    assert ck.damage(damaged) == reason
    assert ck.newest(tmp_path) == good


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        write(tmp_path, step)
    ck.rotate(tmp_path / "checkpoint-40", None, None)
    assert len(ck.ordered(tmp_path)) == 4
    ck.rotate(tmp_path / "checkpoint-40", 2, str(tmp_path / "checkpoint-20"))
    assert [ck.step_of(folder) for folder in ck.ordered(tmp_path)] == [20, 40]
    ck.rotate(tmp_path / "checkpoint-40", 1, str(tmp_path / "checkpoint-20"))
    assert [ck.step_of(folder) for folder in ck.ordered(tmp_path)] == [20, 40]
    ck.rotate(tmp_path / "checkpoint-40", 1, None)
    assert [ck.step_of(folder) for folder in ck.ordered(tmp_path)] == [40]


def test_json_is_written_whole_and_read_with_a_reason(tmp_path: Path) -> None:
    ck.write_json(tmp_path / "a.json", {"é": [1.5, None]})
    assert ck.read_json(tmp_path / "a.json") == {"é": [1.5, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    (tmp_path / "b.json").write_text("{")
    for name in ("b.json", "gone.json"):
        with pytest.raises(CheckpointError, match="cannot be read"):
            ck.read_json(tmp_path / name)


def vit_trainer(folder: Path) -> Any:
    """A trainer of a model whose weights are called otherwise on disk than in memory."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from toolkit import Trainer, TrainingArguments

    config = ViTConfig(image_size=8, patch_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                       num_attention_heads=1)  # fmt: skip
    rows = [{"pixel_values": torch.rand(3, 8, 8), "labels": 1}] * 2
    arguments = TrainingArguments(folder, report_to="none", use_cpu=True, max_steps=1, save_steps=1)
    return Trainer(ViTForImageClassification(config), arguments, train_dataset=rows)


def test_a_checkpoint_is_taken_up_by_models_that_are_called_otherwise_on_disk(tmp_path: Path) -> None:
    trainer, other = vit_trainer(tmp_path), vit_trainer(tmp_path)
    trainer.train()
    other._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    weights = trainer.model.state_dict()
    loaded = type(other.model).from_pretrained(tmp_path / "checkpoint-1")
    for model in (other.model, loaded):
        assert all(bool((weights[name] == one).all()) for name, one in model.state_dict().items())


def test_a_checkpoint_of_which_a_part_has_no_place_is_refused(tmp_path: Path) -> None:
    trainer = vit_trainer(tmp_path)
    trainer.model.save_pretrained(tmp_path / "checkpoint-1")
    with pytest.raises(
        CheckpointError, match="the checkpoint holds weights that a ViTForImageClassification does not"
    ):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))


def test_a_state_that_cannot_be_taken_up_is_a_fault_of_the_checkpoint(tmp_path: Path) -> None:
    vit_trainer(tmp_path).train()
    folder = tmp_path / "checkpoint-1"
    state = ck.read_json(folder / "trainer_state.json")
    write_state(folder, {**state, "of_another_release": 1})
    ck.complete(folder)
    with pytest.raises(CheckpointError, match=r"the training state in .*checkpoint-1 cannot be taken up"):
        vit_trainer(tmp_path).train(resume_from_checkpoint=str(folder))
