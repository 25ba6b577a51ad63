"""Whatever happens to a run: nothing good is lost, and what happened is said."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import torch

from tests.conftest import Install
from tests.core.test_runs import READABLE, SPLITS, lines, same, weights
from toolkit import CheckpointError, Recipe, RecipeError, load_run, run
from toolkit import checkpoint as ck
from toolkit.cli import main
from toolkit.errors import RunError
from toolkit.lock import LOCK, locked
from toolkit.room import told_when_full
from toolkit.runs import resume


def stopped(recipe: Recipe, folder: str, step: int) -> Path:
    """A run as a kill after the checkpoint of `step` leaves it."""
    run(recipe, folder, data=SPLITS)
    for one in ck.ordered(Path(folder, "checkpoints")):
        if ck.step_of(one) > step:
            shutil.rmtree(one)
    shutil.rmtree(Path(folder, "model"))
    Path(folder, "summary.json").unlink()
    return Path(folder)


# ---- two runs in one folder ----------------------------------------------------------------------------------


def test_a_second_run_names_the_process_of_the_first(tiny_recipe: Recipe, in_tmp: Path) -> None:
    folder = stopped(tiny_recipe, "first", 8)
    before = sorted(folder.rglob("*"))
    with locked(folder):
        who = rf"another run is at work in first: process {os.getpid()} on {re.escape(socket.gethostname())}, since 2"
        for attempt in (
            lambda: run(tiny_recipe, "first", data=SPLITS),
            lambda: run(tiny_recipe, "first", data=SPLITS, resume=True),
            lambda: resume("first"),
            lambda: load_run("first"),
        ):
            with pytest.raises(CheckpointError, match=who):
                attempt()
    assert sorted(folder.rglob("*")) == before
    assert run(tiny_recipe, "first", data=SPLITS, resume=True).summary["train"]["resumed_from"] == 8
    assert not (folder / LOCK).exists()


@pytest.mark.parametrize("place", ["model", ".model.partial", "checkpoints", "logs", "metrics.jsonl",
                                   "samples.jsonl", "predictions.jsonl", "quarantine.jsonl"])  # fmt: skip
def test_a_link_in_the_folder_is_met_before_training(place: str, tiny_recipe: Recipe, in_tmp: Path) -> None:
    run(tiny_recipe, "first", data=SPLITS)
    Path("first/summary.json").unlink()
    Path("elsewhere").mkdir()
    if Path("first", place).exists():
        Path("first", place).rename("elsewhere/it")
    Path("first", place).symlink_to("../elsewhere/it")
    logged = Path("first/metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=rf"first/{place} is a link or a f(ile|older)"):
        run(tiny_recipe, "first", data=SPLITS, resume=True)
    assert Path("first/metrics.jsonl").read_bytes() == logged


@pytest.mark.parametrize("name", [LOCK, ".recipe.yaml.partial"])
def test_nothing_is_written_through_a_link(name: str, tiny_recipe: Recipe, in_tmp: Path) -> None:
    Path("first").mkdir()
    Path("precious").write_text("precious")
    Path("first", name).symlink_to("../precious")
    if name == LOCK:
        with pytest.raises(CheckpointError, match=r"first/\.lock is a link or a folder"):
            run(tiny_recipe, "first", data=SPLITS)
    else:
        run(tiny_recipe, "first", data=SPLITS)
    assert Path("precious").read_text() == "precious"


def test_a_run_that_has_ended_meanwhile_is_not_replaced(
    tiny_recipe: Recipe, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the folder and the lock there are seconds, in which torch is imported."""
    meanwhile = [lambda: run(tiny_recipe, "first", data=SPLITS)]
    monkeypatch.setattr("toolkit.runs.say", lambda line: meanwhile.pop()() if meanwhile else None)
    with pytest.raises(CheckpointError, match="first holds another run"):
        run(tiny_recipe.override(train={"seed": 5}), "first", data=SPLITS)
    assert load_run("first").recipe.train["seed"] == 3
    assert not Path("first", LOCK).exists()


def test_a_stale_lock_is_no_lock(tiny_recipe: Recipe, in_tmp: Path) -> None:
    """Of a process that was killed, even while a worker that it had forked lives on."""
    Path("first").mkdir()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(Path("first")):
            if os.fork() == 0:
                time.sleep(5)
                os._exit(0)
            os.write(writing, b"x")
            os.kill(os.getpid(), signal.SIGKILL)
    os.read(reading, 1)
    os.waitpid(pid, 0)
    assert json.loads(Path("first", LOCK).read_text())["pid"] == pid
    assert (
        run(tiny_recipe.override(train={"max_steps": 1}), "first", data=SPLITS).summary["status"]
        == "finished"
    )


# ---- checkpoints ---------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda one: flip(one / "model.safetensors"), "'model.safetensors' is not as it was written"),
        (lambda one: (one / "scheduler.pt").unlink(), "'scheduler.pt' is missing"),
        (lambda one: (one / "manifest.json").unlink(), "it has no readable manifest"),
    ],
)
def test_damaged_checkpoints(
    tiny_recipe: Recipe,
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], Any],
    problem: str,
) -> None:
    """The one before is taken; where there is none, the run is not silently begun again."""
    whole = run(tiny_recipe, "whole", data=SPLITS)
    folder = stopped(tiny_recipe, "first", 8)
    shutil.copytree(folder, "second")
    spoil(folder / "checkpoints" / "checkpoint-8")
    again = run(tiny_recipe, "first", data=SPLITS, resume=True)
    aside = "first/checkpoints/checkpoint-8.damaged"
    assert f"checkpoint-8 is passed over, and is now {aside}: {problem}" in capsys.readouterr().err
    assert Path(aside, "optimizer.pt").is_file()
    assert [ck.step_of(one) for one in ck.ordered(Path("first/checkpoints"))] == [4, 8, 12, 15]
    assert again.summary["train"]["resumed_from"] == 4
    assert same(weights(whole.folder), weights(again.folder))

    for one in ck.ordered(Path("second/checkpoints")):
        spoil(one)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no checkpoint of the run in second can be used") as error:
            run(tiny_recipe, "second", data=SPLITS, resume=True)
        assert f"checkpoint-8: {problem}" in error.value.message
        assert "remove second/checkpoints" in str(error.value.hint)
        assert len(ck.ordered(Path("second/checkpoints"))) == 2
    with pytest.raises(CheckpointError, match="second holds another run"):
        run(tiny_recipe, "second", data=SPLITS)
    shutil.rmtree("second/checkpoints")
    assert run(tiny_recipe, "second", data=SPLITS, resume=True).summary["train"]["resumed_from"] is None


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "trainer_state.json"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_checkpoint_that_the_disk_does_not_give_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """It may be whole: nothing is passed over, and nothing removed."""
    folder = tmp_path / "checkpoint-4"
    ck.begin(folder)
    (folder / "model.safetensors").write_text("weights")
    write_state(folder)
    ck.complete(folder)

    def failing(path: Path, *args: Any, **kwargs: Any) -> Any:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return opened(path, *args, **kwargs)

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", failing)
        patch.setattr(Path, "read_text", lambda path, **kwargs: failing(path, **kwargs).read())
        with pytest.raises(CheckpointError) as error:
            ck.newest_and_damaged(tmp_path)
    assert error.value.message == f"{folder / name} cannot be read: {os.strerror(number)}"
    assert ck.newest(tmp_path) == folder


def test_the_model_is_on_the_disk_before_the_run_is_finished(
    tiny_recipe: Recipe, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    run(tiny_recipe, "first", data=SPLITS)
    places = [one.removeprefix(f"{in_tmp}/first/") for one in synced]
    weights_at, summary_at = (
        places.index(".model.partial/model.safetensors"),
        places.index(".summary.json.partial"),
    )
    assert weights_at < summary_at


@pytest.mark.parametrize("begun", [ck.begin, Path.mkdir])
def test_a_first_checkpoint_that_was_cut_off_is_no_damage(
    tiny_recipe: Recipe, in_tmp: Path, begun: Callable[[Path], None]
) -> None:
    folder = stopped(tiny_recipe, "first", 0)
    begun(folder / "checkpoints" / "checkpoint-4")
    assert run(tiny_recipe, "first", data=SPLITS, resume=True).summary["status"] == "finished"


def write_state(folder: Path) -> None:
    (folder / ck.STATE).write_text(json.dumps({"global_step": ck.step_of(folder), "log_history": []}))


def test_a_checkpoint_is_kept_until_its_successor_is_complete(tmp_path: Path) -> None:
    """Also where both are of the same step, and whatever moment cuts it off."""
    folder = tmp_path / "checkpoint-4"
    ck.begin(folder)
    (folder / "weights").write_text("old")
    write_state(folder)
    ck.complete(folder)
    ck.begin(folder)
    (folder / "weights").write_text("new, but not all of")
    assert ck.newest(tmp_path) is None
    ck.bring_back(tmp_path)
    assert ck.newest(tmp_path) == folder
    assert (folder / "weights").read_text() == "old"
    ck.begin(folder)
    ck.give_up(folder)
    assert (folder / "weights").read_text() == "old"
    ck.begin(folder)
    (folder / "weights").write_text("new")
    write_state(folder)
    ck.complete(folder)
    ck.bring_back(tmp_path)
    assert (folder / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


# ---- changes at resume -----------------------------------------------------------------------------------------


def test_changes_are_refused_shown_and_insisted_on(tiny_recipe: Recipe, in_tmp: Path) -> None:
    folder = stopped(tiny_recipe, "first", 8)
    changed = tiny_recipe.override(train={"learning_rate": 0.5})
    with pytest.raises(RecipeError, match=r"train\.learning_rate: 0\.01 there, 0\.5 here") as error:
        run(changed, "first", data=SPLITS, resume=True)
    assert "--allow-changes" in str(error.value.hint)
    fewer = {**SPLITS, "train": SPLITS["train"][1:]}
    with pytest.raises(
        CheckpointError, match=r"began with: 20 train rows there, 19 here, fingerprint .* there, .* here"
    ):
        run(tiny_recipe, "first", data=fewer, resume=True)
    again = run(changed, "first", data=fewer, resume=True, allow_changes=True)
    assert again.summary["train"]["resumed_from"] == 8
    assert Recipe.load(folder / "recipe.yaml").train["learning_rate"] == 0.5
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["data_rows"]["train"] == 19
    [change] = environment["changes"]
    assert change["step"] == 8
    assert [one.split(":")[0] for one in change["changed"]] == [
        "train.learning_rate", "the data is not what the run in first began with",
    ]  # fmt: skip


PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "threshold": 9.0},
           "eval_strategy": "steps", "eval_steps": 4, "metric_for_best_model": "loss"}  # fmt: skip


def groups(folder: str) -> list[dict[str, Any]]:
    """The hyperparameters of the optimizer at the end."""
    kept = torch.load(ck.ordered(Path(folder, "checkpoints"))[-1] / "optimizer.pt", weights_only=True)
    assert {int(one["step"]) for one in kept["state"].values()} == {
        ck.step_of(ck.ordered(Path(folder, "checkpoints"))[-1])
    }
    return [
        {name: value for name, value in one.items() if name != "initial_lr"} for one in kept["param_groups"]
    ]


@pytest.mark.parametrize(
    ("train", "edited"),
    [
        ({"learning_rate": 1e-9}, False),
        ({"learning_rate": 1e-9}, True),
        ({"weight_decay": 0.5, "adam_beta1": 0.5, "adam_epsilon": 1e-3}, False),
        ({"lr_scheduler_type": "cosine", "warmup_steps": 12}, False),
        ({"num_train_epochs": 5}, False),
        ({**PLATEAU, "lr_scheduler_kwargs": {"patience": 99}}, False),
    ],
)
def test_what_is_changed_of_the_optimizer_counts(
    tiny_recipe: Recipe, in_tmp: Path, train: dict[str, Any], edited: bool
) -> None:
    """From the checkpoint on, as if it had been set so from the first step; the moments are taken up."""
    recipe = tiny_recipe.override(train={"logging_steps": 1})
    changed = recipe.override(train=train)
    folder = stopped(recipe, "first", 8)
    if edited:
        Recipe.load(folder / "recipe.yaml").override(train=train).dump(folder / "recipe.yaml")
    run(changed, "first", data=SPLITS, resume=True, allow_changes=not edited)
    run(changed, "whole", data=SPLITS)
    assert groups("first") == groups("whole")
    rates = [
        {line["step"]: line["learning_rate"] for line in lines(Path(one)) if line["split"] == "train"}
        for one in ("first", "whole")
    ]
    assert {step: rate for step, rate in rates[0].items() if step > 8} == {
        step: rate for step, rate in rates[1].items() if step > 8
    }


OTHER_OPTIMIZER = r"the checkpoint holds the state of another optimizer: train\.optim"
OTHER_WEIGHTS = r"the weights in .* cannot be taken up"


@pytest.mark.parametrize(
    ("change", "told", "edited"),
    [
        ({"train": {"optim": "sgd"}}, 'train.optim: null there, "sgd" here', OTHER_OPTIMIZER),
        ({"train": {"optim_args": "a=1"}}, 'train.optim_args: null there, "a=1" here', OTHER_OPTIMIZER),
        ({"adapter": {"r": 4}}, "adapter.r: 2 there, 4 here", OTHER_WEIGHTS),
        ({"adapter": None}, "adapter.r: 2 there, null here", OTHER_WEIGHTS),
    ],
)
def test_what_trains_cannot_be_changed(
    tiny_recipe: Recipe, in_tmp: Path, change: dict[str, Any], told: str, edited: str
) -> None:
    """Not from a checkpoint on, whose state it would not fit."""
    recipe = tiny_recipe.override(adapter={"r": 2, "target_modules": "all-linear"}, train={"max_steps": 8})
    folder = stopped(recipe, "first", 4)
    before = (folder / "recipe.yaml").read_text()
    changed = recipe.override(**change)
    with pytest.raises(RecipeError, match="what trains cannot be changed") as error:
        run(changed, "first", data=SPLITS, resume=True, allow_changes=True)
    assert told in error.value.message
    assert "--model first/checkpoints/checkpoint-4" in str(error.value.hint)
    assert (folder / "recipe.yaml").read_text() == before
    Recipe.load(folder / "recipe.yaml").override(**change).dump(folder / "recipe.yaml")
    with pytest.raises(CheckpointError, match=edited):
        run(changed, "first", data=SPLITS, resume=True)


def test_an_adapters_dropout_can_be_changed(tiny_recipe: Recipe, in_tmp: Path) -> None:
    recipe = tiny_recipe.override(adapter={"r": 2, "target_modules": "all-linear"}, train={"max_steps": 8})
    stopped(recipe, "first", 4)
    changed = recipe.override(adapter={"lora_dropout": 0.1})
    assert run(changed, "first", data=SPLITS, resume=True, allow_changes=True).summary["status"] == "finished"


def test_a_checkpoint_that_cannot_be_taken_up_leaves_the_recipe_as_it_was(
    tiny_recipe: Recipe, in_tmp: Path
) -> None:
    folder = stopped(tiny_recipe, "first", 8)
    one = folder / "checkpoints" / "checkpoint-8"
    torch.save({}, one / "optimizer.pt")
    ck.complete(one)
    before = [(folder / name).read_text() for name in ("recipe.yaml", "environment.json")]
    with pytest.raises(CheckpointError, match=r"the optimizer and scheduler in .* cannot be taken up"):
        run(
            tiny_recipe.override(train={"learning_rate": 0.5}),
            "first",
            data=SPLITS,
            resume=True,
            allow_changes=True,
        )
    assert [(folder / name).read_text() for name in ("recipe.yaml", "environment.json")] == before


def test_what_a_scheduler_has_seen_is_kept_where_the_rate_is_not_changed(
    tiny_recipe: Recipe, in_tmp: Path
) -> None:
    recipe = tiny_recipe.override(train=PLATEAU)
    whole = run(recipe, "whole", data=SPLITS)
    stopped(recipe, "first", 8)
    again = run(recipe, "first", data=SPLITS, resume=True)
    assert same(weights(whole.folder), weights(again.folder))
    shutil.rmtree("first")
    stopped(recipe, "first", 8)
    run(recipe.override(train={"weight_decay": 0.5}), "first", data=SPLITS, resume=True, allow_changes=True)
    assert groups("whole")[0]["lr"] == groups("first")[0]["lr"] < 0.01
    assert groups("first")[0]["weight_decay"] == 0.5


def test_another_number_of_processes_is_refused(tiny_recipe: Recipe, in_tmp: Path) -> None:
    folder = stopped(tiny_recipe, "first", 8)
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["processes"] == 1
    ck.write_json(folder / "environment.json", {**environment, "processes": 2})
    told = "the run in first has another number of processes: 2 there, 1 here"
    with pytest.raises(CheckpointError, match=told) as error:
        run(tiny_recipe, "first", data=SPLITS, resume=True)
    assert "torchrun --nproc-per-node 2 -m toolkit resume first" in str(error.value.hint)
    run(tiny_recipe, "first", data=SPLITS, resume=True, allow_changes=True)
    environment = json.loads((folder / "environment.json").read_text())
    assert (environment["processes"], environment["changes"]) == (1, [{"step": 8, "changed": [told]}])
    assert [line["step"] for line in lines(folder) if line["split"] == "test"] == [0, 15]


def test_log_steps_that_decide_when_is_evaluated_are_not_free(tiny_recipe: Recipe, in_tmp: Path) -> None:
    recipe = tiny_recipe.override(train={"eval_strategy": "steps"})
    stopped(recipe, "first", 8)
    with pytest.raises(RecipeError, match=r"train\.eval_steps: 2 there, 3 here"):
        run(recipe.override(train={"logging_steps": 3}), "first", data=SPLITS, resume=True)
    said = recipe.override(train={"logging_steps": 3, "eval_steps": 2})
    assert run(said, "first", data=SPLITS, resume=True).summary["status"] == "finished"


def test_rows_that_were_mended_count_as_they_are_now(tiny_recipe: Recipe, in_tmp: Path) -> None:
    recipe = tiny_recipe.override(data={"max_bad_fraction": 0.2})
    worse = {**SPLITS, "test": [{"ids": []}, *SPLITS["test"][1:]]}
    run(recipe, "first", data=worse)
    for one in ("first/model", *ck.ordered(Path("first/checkpoints"))[2:]):
        shutil.rmtree(one)
    before = json.loads(Path("first/summary.json").read_text())
    assert before["rows"]["quarantined"] == 1
    Path("first/summary.json").unlink()
    again = run(recipe, "first", data=SPLITS, resume=True, allow_changes=True)
    assert again.summary["rows"] == {"train": 20, "validation": 5, "test": 6, "quarantined": 0}
    assert not Path("first/quarantine.jsonl").exists()
    whole = run(recipe, "whole", data=SPLITS)
    assert again.summary["before"] == whole.summary["before"] != before["before"]
    steps = [line["step"] for line in lines(Path("first")) if line["split"] == "test"]
    assert steps == [0, 15]


def test_what_changes_no_result_may_change(tiny_recipe: Recipe, in_tmp: Path) -> None:
    whole = run(tiny_recipe, "whole", data=SPLITS)
    stopped(tiny_recipe, "first", 8)
    free = {"save_steps": 3, "save_total_limit": 1, "dataloader_num_workers": 1, "on_nan_inf": "skip"}
    again = run(tiny_recipe.override(train=free), "first", data=SPLITS, resume=True)
    assert same(weights(whole.folder), weights(again.folder))
    assert lines(whole.folder) == lines(again.folder)
    assert [ck.step_of(one) for one in ck.ordered(Path("first/checkpoints"))] == [15]
    assert Recipe.load("first/recipe.yaml").train["save_steps"] == 3


def test_a_finished_run_can_be_trained_for_longer(tiny_recipe: Recipe, in_tmp: Path) -> None:
    run(tiny_recipe, "first", data=SPLITS)
    longer = tiny_recipe.override(train={"num_train_epochs": 5})
    with pytest.raises(RecipeError, match="num_train_epochs: 3 there, 5 here"):
        run(longer, "first", data=SPLITS, resume=True)
    again = run(longer, "first", data=SPLITS, resume=True, allow_changes=True)
    assert (again.summary["train"]["resumed_from"], again.summary["train"]["steps"]) == (15, 25)


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize(
    "train",
    [{}, {"do_predict": True}, {"do_predict": True, "eval_strategy": "epoch", "save_strategy": "epoch"}],
)
def test_the_last_measurement_is_written_once(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, split: str, train: dict[str, Any]
) -> None:
    """Also where a run is killed after it, and it is made again."""
    install(
        "toolkit-readable", plugins={"readable": "toolkit_readable"}, modules={"toolkit_readable": READABLE}
    )
    recipe = tiny_recipe.override(plugins=["tiny", "readable"], train=train, eval={"test": split == "test"})
    whole = run(recipe, "whole", data=SPLITS)
    metrics, samples = Path("whole/metrics.jsonl").read_text(), Path("whole/samples.jsonl").read_text()
    shutil.rmtree("whole/model")
    Path("whole/summary.json").unlink()
    again = run(recipe, "whole", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == 15
    assert again.summary["after"] == whole.summary["after"]
    assert Path("whole/metrics.jsonl").read_text() == metrics
    assert Path("whole/samples.jsonl").read_text() == samples


# ---- bad numbers -----------------------------------------------------------------------------------------------

POISON = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_wrap_loss(recipe):
        def wrap(loss):
            def poisoned(model, batch):
                found = loss(model, batch)
                if 3 in batch["row_id"].tolist():
                    return type(found)(found.total * float("VALUE"), found.count, found.report, found.outputs)
                return found
            return poisoned
        return wrap
"""


def poisoned(recipe: Recipe, install: Install, value: str) -> Recipe:
    source = POISON.replace("VALUE", value)
    install("toolkit-poison", plugins={"poison": "toolkit_poison"}, modules={"toolkit_poison": source})
    return recipe.override(plugins=["tiny", "poison"])


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_bad_numbers_end_a_run_and_name_the_rows(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, value: str
) -> None:
    recipe = poisoned(tiny_recipe, install, value).override(
        train={"save_steps": 1, "train_sampling_strategy": "sequential"}
    )
    with pytest.raises(RunError, match=rf"step 1: the loss is {value}, and no step was taken") as error:
        run(recipe, "first", data=SPLITS)
    assert "train row 3: " in error.value.message
    assert "train row 4" not in error.value.message
    assert "there is no checkpoint yet" in error.value.message
    rows = [SPLITS["train"][place] for place in (*range(4, 20), 3, *range(3))]
    with pytest.raises(RunError, match="step 1: "):
        run(recipe, "second", data={**SPLITS, "train": rows})  # row 3 is now among others
    recipe = recipe.override(train={"train_sampling_strategy": "random"})
    with pytest.raises(RunError, match=r"the last good checkpoint: third/checkpoints/checkpoint-\d+"):
        run(recipe.override(train={"seed": 5}), "third", data=SPLITS)
    assert json.loads(Path("third/summary.json").read_text())["status"] == "failed"


def test_bad_steps_are_skipped_and_counted(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = poisoned(tiny_recipe.override(train={"on_nan_inf": "skip"}), install, "nan")
    whole = run(recipe, "whole", data=SPLITS)
    assert whole.summary["train"]["skipped"] == 3  # once an epoch
    assert all(bool(torch.isfinite(one).all()) for one in weights(whole.folder).values())
    assert capsys.readouterr().err.count("is skipped: the loss is nan; its rows: train row ") == 3
    stopped(recipe, "first", 8)
    again = run(recipe, "first", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == 8
    assert again.summary["train"]["skipped"] == 3
    assert same(weights(whole.folder), weights(again.folder))
    assert lines(whole.folder) == lines(again.folder)


@pytest.mark.parametrize("logging_steps", [1, 4])
def test_the_loss_of_a_skipped_step_counts_nowhere(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, logging_steps: int
) -> None:
    """Not that of its other micro-batches either."""
    train = {"on_nan_inf": "skip", "logging_steps": logging_steps, "learning_rate": 0.0, "max_steps": 10,
             "save_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}  # fmt: skip
    recipe = poisoned(tiny_recipe.override(train=train), install, "nan")
    data = {**SPLITS, "train": [SPLITS["train"][3]] * 20}  # so that each step that is taken has the same loss
    whole = run(recipe, "whole", data=data)
    assert whole.summary["train"]["skipped"] == 2
    found = [line["loss"] for line in lines(whole.folder) if line["split"] == "train"]
    assert found.count(None) == (2 if logging_steps == 1 else 0)
    taken = [loss for loss in found if loss is not None]
    assert taken == pytest.approx([taken[0]] * len(taken))
    assert whole.summary["train"]["loss"] == pytest.approx(taken[0])
    shutil.copytree("whole", "first")
    for gone in (Path("first/model"), *ck.ordered(Path("first/checkpoints"))[1:]):
        shutil.rmtree(gone)
    Path("first/summary.json").unlink()
    again = run(recipe, "first", data=data, resume=True)
    assert lines(again.folder) == lines(whole.folder)
    assert again.summary["train"] == {**whole.summary["train"], "resumed_from": 3, "seconds": ANY}


def test_weights_beyond_help_end_a_run_that_skips(
    tiny_recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    recipe = poisoned(tiny_recipe.override(train={"on_nan_inf": "skip"}), install, "nan")
    with pytest.raises(RunError, match="step 10: the loss is nan, for the 10th time in a row") as error:
        run(
            recipe.override(train={"num_train_epochs": 20}),
            "first",
            data={**SPLITS, "train": SPLITS["train"][:4]},
        )
    assert "on_nan_inf" not in str(error.value.hint)
    assert json.loads(Path("first/summary.json").read_text())["train"]["loss"] is None


# ---- a full disk -----------------------------------------------------------------------------------------------

_NEW_USER, _NEW_MOUNTS = 0x10000000, 0x00020000


def mounted(place: str, size: str) -> bool:
    """In a process of its own: a small disk in memory, where the system lets us mount one."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_MOUNTS) and libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    private = 1 << 18 | 1 << 14
    libc.mount(None, b"/", None, private, None)
    return bool(libc.mount(b"none", place.encode(), b"tmpfs", 0, f"size={size}".encode()) == 0)


def in_a_process(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = work()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("size", ["40k", "100k", "140k", "180k"])
def test_a_full_disk(tiny_recipe: Recipe, in_tmp: Path, size: str, capfd: pytest.CaptureFixture[str]) -> None:
    """At the beginning, at a checkpoint, or at the end: it is said, and with more room the run goes on from there."""
    whole = run(tiny_recipe, "whole", data=SPLITS)
    Path("disk").mkdir()
    recipe = tiny_recipe.override(train={"save_total_limit": 1})

    def work() -> int:
        if not mounted("disk", size):
            return 77
        try:
            run(recipe, "disk/first", data=SPLITS)
            return 1
        except RunError as error:
            if "no room is left for disk/first: " not in error.message:
                return 2
        libc = ctypes.CDLL(None)
        libc.mount(b"none", b"disk", b"tmpfs", 32, b"size=20m")  # remounted
        again = run(recipe, "disk/first", data=SPLITS, resume=True)
        return 0 if same(weights(whole.folder), weights(again.folder)) else 3

    status = in_a_process(work)
    if status == 77:
        pytest.skip("the system lets nobody mount a disk")
    assert status == 0, capfd.readouterr().err


@pytest.mark.parametrize("limit", [3_000, 30_000])
def test_a_limit_of_size(
    tiny_recipe: Recipe, in_tmp: Path, limit: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a full disk, for those who may not mount one: checkpoint and optimizer do not fit."""

    def work() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            run(tiny_recipe, "first", data=SPLITS)
        except RunError as error:
            return 0 if "no room is left for first" in error.message else 2
        return 1

    assert in_a_process(work) == 0, capfd.readouterr().err
    assert not ck.ordered(Path("first/checkpoints"))
    assert run(tiny_recipe, "first", data=SPLITS, resume=True).summary["status"] == "finished"


def test_another_disk_that_is_full_is_named(tmp_path: Path) -> None:
    """As of a file that a plugin writes."""
    for file, named in (("/proc/self/full", "/proc/self/full"), (str(tmp_path / "model"), str(tmp_path))):
        with pytest.raises(RunError) as caught, told_when_full(tmp_path, tmp_path / "checkpoints"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)
        assert caught.value.message.startswith(f"no room is left for {named}: ")


# ---- signals before training -----------------------------------------------------------------------------------

SLOW = """
    import time
    from pathlib import Path
    from toolkit import hookimpl

    @hookimpl
    def toolkit_dataset(recipe):
        def load():
            Path("reading").touch()
            time.sleep(60)
        return load
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_data_are_read(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, tmp_path: Path, number: int, status: int
) -> None:
    install("toolkit-slow", plugins={"slow": "toolkit_slow"}, modules={"toolkit_slow": SLOW})
    tiny_recipe.override(plugins=["tiny", "slow"], data="slow").dump("slow.yaml")
    paths = os.pathsep.join([str(tmp_path / "site-packages"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "run", "slow.yaml", "--output-dir", "runs/first"],
        env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not Path("reading").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    started = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert time.monotonic() - started < 10
    assert err.endswith(f"interrupted by {signal.Signals(number).name}; nothing was begun\n")
    assert not Path("runs").exists()


HANGING = """
    import os, time
    from pathlib import Path
    from toolkit import hookimpl

    @hookimpl
    def toolkit_augment(recipe):
        main = os.getpid()
        def augment(row, generator):
            if os.getpid() != main and row["row_id"] > 15:
                Path("hanging").touch()
                time.sleep(600)
            return row
        return augment
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_twice_stops_at_once_though_a_worker_hangs(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, tmp_path: Path, first: int
) -> None:
    install("toolkit-hanging", plugins={"hanging": "toolkit_hanging"}, modules={"toolkit_hanging": HANGING})
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SPLITS["train"]))
    train = {"dataloader_num_workers": 2, "save_steps": 1, "train_sampling_strategy": "sequential"}
    tiny_recipe.override(plugins=["tiny", "hanging"], data=".", train=train).dump("hanging.yaml")
    paths = os.pathsep.join([str(tmp_path / "site-packages"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "run", "hanging.yaml", "--output-dir", "first"],
        env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (Path("hanging").exists() and Path("first/checkpoints/checkpoint-2/manifest.json").exists()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(first)
    time.sleep(1)
    assert process.poll() is None, process.communicate()
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 130, err
    assert "stopped at once\ninterrupted by SIGINT; go on with: toolkit resume first\n" in err
    assert "Traceback" not in err
    assert json.loads(Path("first/summary.json").read_text())["status"] == "interrupted"
    assert not Path("first", LOCK).exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_is_answered_once(
    tiny_recipe: Recipe, in_tmp: Path, tmp_path: Path, number: int, status: int
) -> None:
    """As a terminal or `timeout` sends it: the workers leave it to the main process, and end with it."""
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SPLITS["train"]))
    train = {"dataloader_num_workers": 2, "dataloader_persistent_workers": True, "num_train_epochs": 10**6}
    tiny_recipe.override(data=".", train={**train, "save_steps": 2, "save_total_limit": 1}).dump("tiny.yaml")
    paths = os.pathsep.join([str(tmp_path / "site-packages"), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", "run", "tiny.yaml", "--output-dir", "first"],
        env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    while not list(Path().glob("first/checkpoints/checkpoint-*/manifest.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err.count("stopping after this step") == 1
    assert "Traceback" not in err


def test_sigterm_anywhere_in_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit.cli import tasks_command

    monkeypatch.setattr(tasks_command, "execute", lambda options: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(["tasks"]) == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert "interrupted by SIGTERM" in capsys.readouterr().err
