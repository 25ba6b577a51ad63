"""Runs that are stopped at chosen moments go on as if they had never been."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Install
from tests.core.test_runs import READABLE, SPLITS, lines, same, weights
from toolkit import CheckpointError, Recipe, RecipeError, load_run, run
from toolkit.checkpoint import step_of
from toolkit.errors import Interrupted
from toolkit.folder import RunFolder
from toolkit.resuming import ResumableTrainer
from toolkit.trainer import Trainer

STOPPER = """
    import os, signal
    from pathlib import Path
    from transformers import EarlyStoppingCallback, TrainerCallback
    from toolkit import hookimpl

    class Stopper(TrainerCallback):
        # The file `stop` holds where to stop: "step 7", or "evaluation 7" for the first batch of one at that step.
        def stop(self, place, step):
            if Path("stop").exists() and Path("stop").read_text() == f"{place} {step}":
                Path("stop").unlink()
                signal.raise_signal(signal.SIGTERM)

        def on_optimizer_step(self, args, state, control, **kwargs):
            self.stop("step", state.global_step + 1)

        def on_prediction_step(self, args, state, control, **kwargs):
            self.stop("evaluation", state.global_step)

    @hookimpl
    def toolkit_callbacks(recipe):
        found = [Stopper()]
        if recipe.train.get("metric_for_best_model"):
            found.append(EarlyStoppingCallback(early_stopping_patience=2))
        return found
"""


@pytest.fixture
def recipe(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> Recipe:
    install("toolkit-stopper", plugins={"stopper": "toolkit_stopper"}, modules={"toolkit_stopper": STOPPER})
    return tiny_recipe.override(
        plugins=["stopper", "tiny"],
        tiny={"dropout": 0.2},
        train={"num_train_epochs": 4, "per_device_eval_batch_size": 2},
    )


def stopped_at(place: str, recipe: Recipe, folder: str) -> None:
    Path("stop").write_text(place)
    with pytest.raises(Interrupted) as caught:
        run(recipe, folder, data=SPLITS)
    assert caught.value.exit_status == 128 + signal.SIGTERM
    assert caught.value.folder == folder
    assert not Path("stop").exists()
    assert json.loads(Path(folder, "summary.json").read_text())["status"] == "interrupted"


BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch"}
BY_STEPS = {"eval_strategy": "steps", "eval_steps": 7, "save_steps": 7}


@pytest.mark.parametrize(
    ("train", "place"),
    [
        ({}, "step 6"),
        (BY_EPOCH, "step 7"),
        (BY_EPOCH, "step 10"),
        (BY_EPOCH, "evaluation 10"),
        (BY_STEPS, "step 7"),
        (BY_STEPS, "evaluation 14"),
        ({"save_steps": 5, "eval_strategy": "epoch", "logging_strategy": "epoch"}, "step 10"),
        ({"logging_strategy": "epoch", "save_strategy": "no"}, "step 8"),
        (
            {"logging_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 5, "save_steps": 99},
            "evaluation 10",
        ),
        (
            {"logging_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 5, "save_steps": 99},
            "evaluation 20",
        ),
        ({"eval_on_start": True, **BY_STEPS}, "step 8"),
        ({"max_steps": 13, "eval_strategy": "epoch"}, "step 12"),
        ({"max_steps": 13, "eval_strategy": "epoch"}, "step 13"),
        ({"max_steps": 13, "save_strategy": "no"}, "evaluation 13"),
        ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, **BY_STEPS}, "evaluation 7"),
        ({"dataloader_num_workers": 1, "save_steps": 3}, "step 8"),
        ({"dataloader_num_workers": 1, "dataloader_persistent_workers": True, **BY_EPOCH}, "step 7"),
    ],
)
def test_going_on_is_as_never_stopping(recipe: Recipe, train: dict[str, Any], place: str) -> None:
    recipe = recipe.override(train={"logging_steps": 3, **train})
    whole = run(recipe, "whole", data=SPLITS)
    stopped_at(place, recipe, "stopped")
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == int(place.split()[1])
    assert same(weights(whole.folder), weights(again.folder))
    assert lines(again.folder) == lines(whole.folder)
    for key in ("steps", "epochs", "loss"):
        assert again.summary["train"][key] == whole.summary["train"][key]
    assert (again.summary["before"], again.summary["after"]) == (
        whole.summary["before"],
        whole.summary["after"],
    )


def test_workers_that_persist_change_nothing(recipe: Recipe) -> None:
    """What is measured are the rows that are asked for, and dropout goes on as with workers that do not."""
    recipe = recipe.override(train={**BY_EPOCH, "num_train_epochs": 2})
    whole = run(recipe, "whole", data=SPLITS)
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    other = run(recipe.override(train=workers), "other", data=SPLITS)
    assert lines(other.folder) == lines(whole.folder)
    assert same(weights(other.folder), weights(whole.folder))


def test_a_second_signal_while_the_last_step_is_saved(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop_at_once(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ResumableTrainer, "_write_checkpoint", stop_at_once)
    Path("stop").write_text("evaluation 7")
    with pytest.raises(Interrupted) as caught:
        run(recipe.override(train=BY_STEPS), "stopped", data=SPLITS)
    assert caught.value.folder == "stopped"
    assert json.loads(Path("stopped/summary.json").read_text())["status"] == "interrupted"
    assert "stopped at once" in capsys.readouterr().err


BEST_BY_EPOCH = {
    "logging_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 5, "save_steps": 100,
    "load_best_model_at_end": True, "metric_for_best_model": "loss",
}  # fmt: skip


@pytest.mark.parametrize(
    ("train", "left"),
    [
        ({"save_steps": 5, "eval_strategy": "epoch"}, 10),
        ({"save_steps": 5, "eval_strategy": "epoch", "max_steps": 13}, 13),
        (BEST_BY_EPOCH, 10),
    ],
)
def test_stopped_between_a_step_and_the_epochs_end(recipe: Recipe, train: dict[str, Any], left: int) -> None:
    """A checkpoint at the last step of an epoch is written after what is logged and measured at its end."""
    recipe = recipe.override(train=train)
    whole = run(recipe, "whole", data=SPLITS)
    shutil.copytree("whole", "stopped")
    for gone in (*Path("stopped/checkpoints").glob("checkpoint-*"), Path("stopped/model")):
        if gone.name == "model" or step_of(gone) > left:
            shutil.rmtree(gone)
    Path("stopped/summary.json").unlink()
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == left
    assert same(weights(whole.folder), weights(again.folder))
    assert lines(again.folder) == lines(whole.folder)


BEST = {
    "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "num_train_epochs": 40, "learning_rate": 0.3,
    "load_best_model_at_end": True, "metric_for_best_model": "accuracy",
}  # fmt: skip


def test_early_stopping_counts_on(recipe: Recipe) -> None:
    recipe = recipe.override(train=BEST)
    whole = run(recipe, "whole", data=SPLITS)
    steps = whole.summary["train"]["steps"]
    assert steps < 100
    stopped_at(f"step {steps - 1}", recipe, "stopped")
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["steps"] == steps
    assert again.summary["after"] == whole.summary["after"]
    assert same(weights(whole.folder), weights(again.folder))


def test_early_stopping_as_a_setting(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """By the loss, unless told otherwise; the best weights are kept; it counts on over a resume."""
    train = {
        key: BEST[key]
        for key in ("eval_strategy", "eval_steps", "save_steps", "num_train_epochs", "learning_rate")
    }
    recipe = recipe.override(train=train, eval={"early_stopping_patience": 2})
    whole = run(recipe, "whole", data=SPLITS)
    validation = {line["step"]: line["loss"] for line in lines(whole.folder) if line["split"] == "validation"}
    best, last = min(validation, key=validation.__getitem__), max(validation)
    assert last < 200, "it never stopped"
    assert list(validation)[-3:] == [best, last - 2, last]
    printed = capsys.readouterr().err
    assert (
        printed.count(f"early, at step {last}: loss was no better than {validation[best]:.4g} of step {best}")
        == 1
    )
    assert whole.evaluate(SPLITS["validation"])["metrics"]["loss"] == pytest.approx(validation[best])
    stopped_at(f"step {last - 1}", recipe, "stopped")
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["steps"] == last
    assert same(weights(whole.folder), weights(again.folder))


@pytest.mark.parametrize(
    ("patience", "strategy", "expected"),
    [(0, "epoch", "eval.early_stopping_patience: expected at least 1, found 0"),
     (2, "no", "eval.early_stopping_patience: training is never evaluated")],
)  # fmt: skip
def test_early_stopping_that_cannot_be(recipe: Recipe, patience: int, strategy: str, expected: str) -> None:
    recipe = recipe.override(train={"eval_strategy": strategy}, eval={"early_stopping_patience": patience})
    with pytest.raises(RecipeError) as error:
        run(recipe, "not_written", data=SPLITS)
    assert error.value.message == expected
    assert not Path("not_written").exists()


def test_resuming_as_a_setting(recipe: Recipe) -> None:
    """`train.resume_from_checkpoint: true` goes on in a folder that is named, begins a run where there is none yet."""
    recipe = recipe.override(train={"resume_from_checkpoint": True})
    stopped_at("step 6", recipe, "stopped")
    again = run(recipe, "stopped", data=SPLITS)
    assert again.summary["train"]["resumed_from"] == 6
    anew = run(recipe.override(train={"max_steps": 1}), data=SPLITS)
    assert anew.folder.parent == Path("runs")
    with pytest.raises(RecipeError, match="a run goes on from a checkpoint in its own folder"):
        run(recipe.override(train={"resume_from_checkpoint": "elsewhere/checkpoint-3"}), "other", data=SPLITS)


def test_higher_accuracy_is_better_without_being_told(recipe: Recipe) -> None:
    result = run(
        recipe.override(train=BEST), "best", data={"train": SPLITS["train"], "validation": SPLITS["test"]}
    )
    validation = [line["accuracy"] for line in lines(Path("best")) if line["split"] == "validation"][1:]
    assert result.summary["after"]["accuracy"] == max(validation)


@pytest.mark.parametrize("place", [None, "step 9", "step 10", "evaluation 10"])
def test_the_best_weights_are_kept_however_seldom_is_saved(recipe: Recipe, place: str | None) -> None:
    """And no others: not those of a checkpoint that a signal happened to make."""
    data = {"train": SPLITS["train"], "validation": SPLITS["test"]}
    recipe = recipe.override(train={**BEST, "save_steps": 200, "max_steps": 30, "num_train_epochs": None})
    whole = run(recipe, "whole", data=data)
    validation = {
        line["step"]: line["accuracy"] for line in lines(Path("whole")) if line["split"] == "validation"
    }
    best = max((step for step in validation if step), key=validation.__getitem__)
    assert 0 < best < max(validation)
    assert whole.summary["after"]["accuracy"] == validation[best]
    if place is not None:
        Path("stop").write_text(place)
        with pytest.raises(Interrupted):
            run(recipe, "again", data=data)
        whole = run(recipe, "again", data=data, resume=True)
    assert same(weights(whole.folder), weights(Path("whole")))
    assert load_run(whole.folder).evaluate(data)["metrics"]["accuracy"] == validation[best]


def test_the_best_is_found_again_in_a_folder_that_moved(recipe: Recipe) -> None:
    recipe = recipe.override(train=BEST)
    whole = run(recipe, "whole", data=SPLITS)
    stopped_at(f"step {whole.summary['train']['steps'] - 1}", recipe, "stopped")
    Path("stopped").rename("moved")
    assert run(recipe, "moved", data=SPLITS, resume=True).summary["after"] == whole.summary["after"]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """What evaluations are said to have found, by step; 9 where nothing is given."""
    found: dict[int, float] = {}
    judge = Trainer._determine_best_metric

    def judged(trainer: Trainer, metrics: dict[str, float], trial: Any) -> bool:
        return bool(
            judge(trainer, {**metrics, "eval_loss": found.get(trainer.state.global_step, 9.0)}, trial)
        )

    monkeypatch.setattr(Trainer, "_determine_best_metric", judged)
    return found


OFTEN = {
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_steps": 2,
    "max_steps": 8,
    "num_train_epochs": None,
    "metric_for_best_model": "loss",
    "load_best_model_at_end": True,
}


def test_the_checkpoint_before_has_its_best_weights_still(
    recipe: Recipe, losses: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the newest one is damaged, the one before is gone on from, and it has another best."""
    losses |= {2: 1.0, 4: 2.0, 6: 0.5}
    recipe = recipe.override(plugins=["tiny"], train={**OFTEN, "save_total_limit": 2})
    whole = run(recipe, "whole", data=SPLITS)
    step = Trainer.training_step

    def dies(trainer: Trainer, *args: Any) -> Any:
        if trainer.state.global_step == 6:
            raise RuntimeError("the power is gone")
        return step(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", dies)
        with pytest.raises(RuntimeError):
            run(recipe, "stopped", data=SPLITS)
    with Path("stopped/checkpoints/checkpoint-6/optimizer.pt").open("r+b") as file:
        file.truncate(100)
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == 4
    assert same(weights(whole.folder), weights(again.folder))


def test_a_checkpoint_asked_for_is_written_though_only_the_best_are(
    recipe: Recipe, losses: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses |= {2: 1.0, 6: 0.5}
    step = Trainer.training_step

    def asked(trainer: Trainer, *args: Any) -> Any:
        if trainer.state.global_step == 3:
            signal.raise_signal(signal.SIGUSR1)
        return step(trainer, *args)

    monkeypatch.setattr(Trainer, "training_step", asked)
    run(recipe.override(plugins=["tiny"], train={**OFTEN, "save_strategy": "best"}), "first", data=SPLITS)
    assert sorted(map(step_of, Path("first/checkpoints").glob("checkpoint-*"))) == [2, 4, 6]


def test_the_samples_shown_are_those_of_the_best_weights(
    recipe: Recipe, install: Install, losses: dict[int, float], capsys: pytest.CaptureFixture[str]
) -> None:
    losses |= {4: 1.0}
    install(
        "toolkit-readable", plugins={"readable": "toolkit_readable"}, modules={"toolkit_readable": READABLE}
    )
    recipe = recipe.override(plugins=["tiny", "readable"], train=OFTEN, eval={"before": False})
    run(recipe, "first", data={**SPLITS, "validation": SPLITS["train"][:4]})
    written = [json.loads(line) for line in Path("first/samples.jsonl").read_text().splitlines()]
    assert [one["split"] for one in written][-3:] == ["test"] * 3
    said = capsys.readouterr().err.partition("after   test")[2]
    assert said.count("prediction  ") == 3
    assert f"prediction  {written[-1]['prediction']}" in said


def test_early_stopping_without_a_best_step_names_none(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {
        **OFTEN,
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "learning_rate": 3.0,
        "max_steps": 20,
    }
    recipe = recipe.override(plugins=["tiny"], train=train, eval={"early_stopping_patience": 1})
    run(recipe, "first", data=SPLITS)
    [said] = [line for line in capsys.readouterr().err.splitlines() if "stopped early" in line]
    assert "None" not in said


LIMIT = """
    from transformers import TrainerCallback
    from toolkit import hookimpl

    class Limit(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop |= state.global_step == 6

    @hookimpl
    def toolkit_callbacks(recipe):
        return [Limit()]
"""


def test_a_run_that_a_callback_has_stopped_stays_so(
    recipe: Recipe, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("toolkit-limit", plugins={"limit": "toolkit_limit"}, modules={"toolkit_limit": LIMIT})
    recipe = recipe.override(plugins=["limit", "tiny"], train={"save_steps": 3})
    whole = run(recipe, "whole", data=SPLITS)

    def fails(files: RunFolder) -> None:
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish_model", fails)
        with pytest.raises(RuntimeError):
            run(recipe, "stopped", data=SPLITS)
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert (again.summary["train"]["resumed_from"], again.summary["train"]["steps"]) == (6, 6)
    assert same(weights(whole.folder), weights(again.folder))


def truncated(best: Path) -> None:
    with (best / "model.safetensors").open("r+b") as file:
        file.truncate(100)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(truncated, "'model.safetensors' is not as it was written"), (shutil.rmtree, "it is not there")],
)
@pytest.mark.parametrize("at_the_end", [True, False])
def test_the_best_that_is_damaged_is_not_replaced_in_silence(
    recipe: Recipe,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    problem: str,
    at_the_end: bool,
) -> None:
    best = {"metric_for_best_model": "loss", "learning_rate": 0.01, "num_train_epochs": 2}
    recipe = recipe.override(train={**BEST, **best})
    stopped_at("step 7", recipe, "stopped")
    end = ResumableTrainer._finalize_training

    def spoilt_end(trainer: ResumableTrainer, *args: Any) -> Any:
        spoil(Path(trainer.state.best_model_checkpoint))
        return end(trainer, *args)

    if at_the_end:
        monkeypatch.setattr(ResumableTrainer, "_finalize_training", spoilt_end)
    else:
        spoil(Path("stopped/checkpoints/checkpoint-6"))
    with pytest.raises(CheckpointError, match=rf"the best weights, in .* cannot be used: {problem}") as error:
        run(recipe, "stopped", data=SPLITS, resume=True)
    assert "train.load_best_model_at_end=false" in str(error.value.hint)
    assert not Path("stopped/model").exists()
    monkeypatch.setattr(ResumableTrainer, "_finalize_training", end)
    without = recipe.override(train={"load_best_model_at_end": False})
    again = run(without, "stopped", data=SPLITS, resume=True, allow_changes=True)
    assert again.summary["status"] == "finished"


def test_what_was_just_saved_survives_the_clearing_up(recipe: Recipe) -> None:
    recipe = recipe.override(train={**BEST, "save_total_limit": 1, "save_steps": 2})
    stopped_at("step 7", recipe, "stopped")
    assert Path("stopped/checkpoints/checkpoint-7/manifest.json").exists()


def test_a_damaged_checkpoint_is_passed_over_aloud(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe.override(train={"save_total_limit": 2})
    whole = run(recipe, "whole", data=SPLITS)
    stopped_at("step 10", recipe, "stopped")
    with Path("stopped/checkpoints/checkpoint-10/optimizer.pt").open("r+b") as file:
        file.truncate(100)
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert (
        "checkpoint-10 is passed over, and is now stopped/checkpoints/checkpoint-10.damaged: 'optimizer.pt' is not as"
        in capsys.readouterr().err
    )
    assert again.summary["train"]["resumed_from"] == 8
    assert same(weights(whole.folder), weights(again.folder))


def test_another_recipe_or_other_data_cannot_go_on(recipe: Recipe) -> None:
    stopped_at("step 6", recipe, "stopped")
    before = Path("stopped/recipe.yaml").read_text()
    with pytest.raises(RecipeError) as caught:
        run(recipe.override(train={"learning_rate": 0.5}), "stopped", data=SPLITS, resume=True)
    assert "train.learning_rate: 0.01 there, 0.5 here" in caught.value.message
    with pytest.raises(CheckpointError, match="the data is not what the run in stopped began with"):
        run(recipe, "stopped", data={**SPLITS, "train": SPLITS["train"][1:]}, resume=True)
    assert Path("stopped/recipe.yaml").read_text() == before
    assert run(recipe, "stopped", data=SPLITS, resume=True).summary["status"] == "finished"


def test_a_failure_says_its_own_reason(recipe: Recipe) -> None:
    stopped_at("step 6", recipe, "stopped")
    checkpoint = Path("stopped/checkpoints/checkpoint-6")
    torch.save({}, checkpoint / "optimizer.pt")
    from toolkit import checkpoint as files

    files.complete(checkpoint)
    with pytest.raises(
        CheckpointError, match=r"the optimizer and scheduler in .* cannot be taken up: KeyError"
    ):
        run(recipe, "stopped", data=SPLITS, resume=True)
    summary = json.loads(Path("stopped/summary.json").read_text())
    assert (summary["status"], summary["error"].split(":")[0]) == ("failed", "CheckpointError")


def test_an_observer_that_fails_changes_nothing(
    recipe: Recipe, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "from toolkit import hookimpl\n@hookimpl\ndef toolkit_run_finished(run): 1 / 0\n"
    install("toolkit-bad", plugins={"bad": "toolkit_bad"}, modules={"toolkit_bad": source})
    result = run(recipe.override(plugins=["tiny", "bad"], train={"max_steps": 1}), "first", data=SPLITS)
    assert result.summary["status"] == "finished"
    told = "plugin 'bad' (toolkit-bad 0.1): toolkit_run_finished failed: ZeroDivisionError: division by zero"
    assert told in capsys.readouterr().err


def test_a_checkpoint_without_the_optimizer_is_nothing_to_go_on_from(recipe: Recipe) -> None:
    recipe = recipe.override(train={"save_only_model": True})
    stopped_at("step 9", recipe, "stopped")
    with pytest.raises(CheckpointError, match=r"checkpoint-9 holds no state of the optimizer") as caught:
        run(recipe, "stopped", data=SPLITS, resume=True)
    assert "--model stopped/checkpoints/checkpoint-9" in str(caught.value.hint)
