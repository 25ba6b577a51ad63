"""Searches: trials in processes of their own, their record, and how one that was stopped goes on."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Install
from tests.core.test_runs import same, weights
from tests.core.tiny import rows
from toolkit import CheckpointError, Recipe, RecipeError, load_run, processes, run, search
from toolkit.checkpoint import read_json, write_json
from toolkit.cli import main
from toolkit.errors import RunError
from toolkit.processes import Ended
from toolkit.searching import Search, resume_search
from toolkit.space import parse_space
from toolkit.study import Trial
from toolkit.trials import Settings

RATES = {"train.learning_rate": "0.001..0.1:log"}

TROUBLE = """
    import os, signal
    from dataclasses import dataclass
    from transformers import TrainerCallback
    from toolkit import hookimpl

    @dataclass(frozen=True)
    class TroubleSettings:
        kind: str = "none"

    class Trouble(TrainerCallback):
        def __init__(self, kind):
            self.kind = kind

        def on_step_end(self, args, state, control, **kwargs):
            if self.kind == "raise":
                raise KeyError("lost")
            if self.kind in ("kill", "term"):
                os.kill(os.getpid(), {"kill": signal.SIGKILL, "term": signal.SIGTERM}[self.kind])

    @hookimpl
    def toolkit_settings():
        return TroubleSettings

    @hookimpl
    def toolkit_callbacks(recipe):
        return [Trouble(recipe.settings(TroubleSettings).kind)]
"""


@pytest.fixture
def recipe(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> Recipe:
    install("toolkit-trouble", plugins={"trouble": "toolkit_trouble"}, modules={"toolkit_trouble": TROUBLE})
    Path("data").mkdir()
    for split, count in (("train", 20), ("validation", 5), ("test", 6)):
        lines = [json.dumps({"tokens": row["ids"]}) for row in rows(count, seed=count)]
        Path(f"data/{split}.jsonl").write_text("\n".join(lines) + "\n")
    train = {"eval_strategy": "epoch", "logging_steps": 5}
    made = tiny_recipe.override(plugins=["tiny", "trouble"], data="data", train=train)
    made.dump("tiny.yaml")
    return made


def begun(recipe: Recipe, space: dict[str, Any], tried: Sequence[Trial] = (), **changes: Any) -> Path:
    """A search's folder as it is once `tried` have been tried."""
    asked = {"metric": "loss", "seed": 0, "prune": True, "trials": len(tried) + 1}
    settings = Settings(recipe.resolved(), parse_space(space), **{**asked, **changes})  # type: ignore[arg-type]
    record = {
        "schema": 1, "status": "interrupted", "task": "tiny", "search": settings.as_dict(), "metric": settings.metric,
        "higher_is_better": settings.metric == "accuracy", "rows": {"train": 20, "validation": 5},
        "data_fingerprint": None, "trials": [trial.as_dict() for trial in tried], "best": None, "test": None,
    }  # fmt: skip
    Path("tuned/trials").mkdir(parents=True)
    write_json(Path("tuned/search.json"), record)
    return Path("tuned")


def finished(count: int, curve: Sequence[float], key: str = "train.learning_rate") -> list[Trial]:
    return [Trial(place, {key: place / 1000}, "finished", curve[-1], curve) for place in range(1, count + 1)]


@pytest.mark.slow
def test_a_search_from_beginning_to_end(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    """Every rank reaches the model; the better one by accuracy on validation is kept, and its recipe repeats it."""
    saved_base()
    command = ["search", "tiny.yaml", "--model", "base"]
    command += ["--set", "adapter={lora_alpha: 16, target_modules: [q_proj, v_proj, up_proj]}"]
    command += ["--set", "train={num_train_epochs: 6, learning_rate: 0.03}"]
    command += ["--space", "adapter.r=1,8", "--metric", "accuracy", "--output-dir", "tuned"]
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document.pop("folder") == "tuned"
    assert document == read_json(Path("tuned/search.json"))
    assert "all 2 combinations have been tried" in printed.err
    assert {trial["values"]["adapter.r"] for trial in document["trials"]} == {1, 8}
    by_accuracy = sorted(document["trials"], key=lambda trial: trial["score"])
    best, worse = by_accuracy[1], by_accuracy[0]
    assert worse["score"] < best["score"] == best["curve"][-1] == best["metrics"]["accuracy"]
    assert document["best"] == {"trial": best["number"], "score": best["score"], "values": best["values"]}
    kept = Path(f"tuned/trials/trial-{best['number']}")
    assert read_json(kept / "model/adapter_config.json")["r"] == best["values"]["adapter.r"]
    assert read_json(kept / "summary.json")["rows"] == {
        "train": 20,
        "validation": 5,
        "test": 0,
        "quarantined": 0,
    }
    for place in ("model", "checkpoints"):
        assert (kept / place).is_dir()
        assert not Path(f"tuned/trials/trial-{worse['number']}", place).exists()
    assert sorted(path.name for path in Path("tuned").iterdir()) == [
        "best.yaml",
        "search.json",
        "trials",
    ]
    assert_best_is_repeated(kept, document["test"])
    assert_nothing_is_done_twice(command, document, capsys)


def saved_base() -> None:
    """A model for adapters: one made anew in each process would not be the one they were trained on."""
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(0)
    sizes = {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 32}
    config = LlamaConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0)
    LlamaForCausalLM(config).save_pretrained("base")


def assert_best_is_repeated(kept: Path, test: dict[str, Any]) -> None:
    again = run("tuned/best.yaml", "again")
    assert same(weights(again.folder), weights(kept))
    assert (again.recipe.eval.before, again.recipe.eval.test) == (True, True)
    assert test["rows"] == 6
    assert test["metrics"] == pytest.approx(again.summary["after"], rel=1e-5)
    found = Search(Path("tuned"))
    assert found.best == Recipe.load("tuned/best.yaml")
    assert found.load_best().folder == kept
    assert found.as_optuna().best_value == found.best_trial.score


def assert_nothing_is_done_twice(
    command: list[str], document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    assert main([*command, "--resume"]) == main(["resume", "tuned"]) == 0
    assert time.monotonic() - started < 5
    assert read_json(Path("tuned/search.json")) == document
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["trial", "adapter.r", "accuracy", "s"] in shown
    best = document["best"]
    row = [str(best["trial"]), str(best["values"]["adapter.r"]), f"{best['score']:.4f}"]
    assert shown[shown.index(["trial", "adapter.r", "accuracy", "s"]) + 1][:3] == row
    assert main(command) == 2
    assert (
        "error: tuned holds another search\nhint: go on with it: toolkit resume tuned"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_signal_ends_it_and_it_goes_on(recipe: Recipe, tmp_path: Path) -> None:
    """A real SIGINT to the search; the trial under way goes on from its checkpoint, as if nothing had been."""
    folder = begun(recipe.override(train={"num_train_epochs": 100}), RATES)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site-packages"), *sys.path])}
    command = [sys.executable, "-m", "toolkit", "resume", "tuned", "--json"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    measured, deadline = folder / "trials/trial-1/metrics.jsonl", time.monotonic() + 120
    while not measured.exists() or len(measured.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert json.loads(out) == {"status": "interrupted", "folder": "tuned"}
    assert "go on with: toolkit resume tuned" in err
    assert "Traceback" not in err
    record = read_json(folder / "search.json")
    assert (record["status"], [trial["status"] for trial in record["trials"]]) == ("interrupted", ["running"])
    assert read_json(folder / "trials/trial-1/summary.json")["status"] == "interrupted"
    [trial] = resume_search("tuned").trials
    assert trial.values == record["trials"][0]["values"]
    summary = load_run(folder / "trials/trial-1").summary
    assert 0 < summary["train"]["resumed_from"] < 500 == summary["train"]["steps"]
    whole = run("tuned/best.yaml", "whole")
    validation = [json.loads(line) for line in Path("whole/metrics.jsonl").read_text().splitlines()]
    curve = [line["loss"] for line in validation if line["split"] == "validation"]
    assert list(trial.curve) == curve
    assert same(weights(whole.folder), weights(folder / "trials/trial-1"))


@pytest.mark.slow
def test_a_trial_that_fails_is_noted_and_the_next_is_tried(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(recipe.override(train={"max_steps": 2}), {"trouble.kind": ["none", "raise", "kill"]}, trials=3)
    assert main(["resume", "tuned"]) == 0
    printed = capsys.readouterr()
    found = {trial.values["trouble.kind"]: trial for trial in Search(Path("tuned")).trials}
    assert {kind: (trial.status, trial.reason) for kind, trial in found.items()} == {
        "none": ("finished", None),
        "raise": ("failed", "KeyError: 'lost'"),
        "kill": ("failed", "killed, as the system does when memory runs out"),
    }
    log = Path(f"tuned/trials/trial-{found['raise'].number}.log").read_text()
    assert "Traceback" in log
    assert "Traceback" not in printed.err
    assert "failed: KeyError: 'lost'" in printed.out
    assert not Path(f"tuned/trials/trial-{found['raise'].number}/checkpoints").exists()


def test_a_trial_that_is_asked_to_end_has_not_failed(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever sent the signal to the trial alone: it has saved a checkpoint, from which the search goes on."""
    folder = begun(recipe.override(trouble={"kind": "term"}), RATES)
    assert main(["resume", "tuned"]) == 143
    assert "interrupted by SIGTERM; go on with: toolkit resume tuned" in capsys.readouterr().err
    assert [trial.status for trial in Search(folder).trials] == ["running"]
    assert list((folder / "trials/trial-1/checkpoints").glob("checkpoint-*/manifest.json"))


def test_a_hopeless_trial_is_ended_in_good_order(recipe: Recipe) -> None:
    """Five others were better at their first evaluation: the sixth is not trained for its 4000 epochs."""
    recipe = recipe.override(train={"num_train_epochs": 4000})
    folder = begun(recipe, RATES, finished(5, [0.01, 0.01, 0.01]))
    ended = resume_search(folder).trials[-1]
    assert (ended.number, ended.status, ended.score, len(ended.curve)) == (6, "pruned", None, 1)
    assert read_json(folder / "trials/trial-6/summary.json")["status"] == "interrupted"
    assert not (folder / "trials/trial-6/checkpoints").exists()
    assert Search(folder).record["best"]["trial"] == 1


def test_a_full_disk_ends_the_search_and_not_the_trial(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is full is no fault of the trial's values: with more room it is gone on with."""
    folder = begun(recipe, RATES, finished(1, [1.0]))
    carry_out = processes.carry_out

    def in_little_room(*args: Any, **kwargs: Any) -> Ended:
        with subprocess_limited_to(3_000):
            return carry_out(*args, **kwargs)

    monkeypatch.setattr(processes, "carry_out", in_little_room)
    with pytest.raises(RunError, match="trial 2: no room is left for tuned/trials/trial-2") as caught:
        resume_search(folder)
    assert caught.value.hint == "make room, then: toolkit resume tuned"
    record = read_json(folder / "search.json")
    assert [trial["status"] for trial in record["trials"]] == ["finished", "running"]
    monkeypatch.setattr(processes, "carry_out", carry_out)
    assert [trial.status for trial in resume_search(folder).trials] == ["finished", "finished"]


@contextlib.contextmanager
def subprocess_limited_to(size: int) -> Iterator[None]:
    """Meanwhile no file that a new process writes may be larger: to it that is a disk without room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_record_for_which_there_is_no_room(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = begun(recipe, RATES, finished(1, [1.0]))
    before = (folder / "search.json").read_text()

    def full(path: Path, data: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("toolkit.trials.write_json", full)
    with pytest.raises(RunError, match="no room is left for tuned") as caught:
        resume_search(folder)
    assert str(caught.value.hint).endswith("then: toolkit resume tuned")
    assert (folder / "search.json").read_text() == before


def test_other_data_cannot_go_on(recipe: Recipe) -> None:
    folder = begun(recipe.override(train={"max_steps": 1}), RATES, finished(1, [0.5]))
    write_json(folder / "search.json", {**read_json(folder / "search.json"), "data_fingerprint": "0" * 16})
    with pytest.raises(CheckpointError, match="the data is not what the search in tuned began with"):
        resume_search(folder)
    record = read_json(folder / "search.json")
    assert (record["status"], record["trials"][1]["status"]) == ("failed", "running")
    assert not (folder / "trials/trial-2").exists()


def test_when_all_fail_the_first_reason_is_told(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    failed = [Trial(place, {"adapter.r": place}, "failed", reason=f"reason {place}") for place in (1, 2)]
    begun(recipe, {"adapter.r": "1,2"}, failed, trials=2)
    assert main(["resume", "tuned"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: none of 2 trials has finished; the first: reason 1",
        "hint: see tuned/trials/trial-1.log; mend it and start another search",
    ]
    with pytest.raises(CheckpointError, match="no trial in tuned has finished"):
        _ = Search(Path("tuned")).best


def test_other_settings_cannot_go_on(recipe: Recipe) -> None:
    folder = begun(recipe, RATES, finished(2, [0.5]), trials=2)
    before = (folder / "search.json").read_text()
    other = recipe.override(train={"weight_decay": 0.1})
    for changed, expected in (
        ({"recipe": other}, "recipe.train.weight_decay: null there, 0.1 here"),
        (
            {"space": {"train.learning_rate": "0.001..0.2:log"}},
            'space.train.learning_rate: "0.001..0.1:log" there',
        ),
        ({"space": {**RATES, "adapter.r": [1, 2]}}, "space.adapter.r: null there, [1, 2] here"),
        ({"metric": "accuracy"}, 'metric: "loss" there, "accuracy" here'),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"prune": False}, "prune: true there, false here"),
    ):
        given = {"recipe": recipe, "space": RATES, "trials": 2, **changed}
        with pytest.raises(RecipeError) as caught:
            search(output_dir=folder, resume=True, **given)  # type: ignore[arg-type]
        assert expected in caught.value.message
        assert (folder / "search.json").read_text() == before
    found = search(recipe, RATES, folder, trials=2, resume=True)
    assert (found.record["status"], len(found.trials)) == ("finished", 2)
    assert found.best_trial.number == 1


@pytest.mark.parametrize("damage", ['{"schema": 1', '{"schema": 1}', '{"search": {"space": {}}}', "[]"])
def test_a_damaged_record(recipe: Recipe, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = begun(recipe, RATES, finished(1, [0.5]))
    (folder / "search.json").write_text(damage)
    assert main(["resume", "tuned"]) == 2
    assert capsys.readouterr().err.startswith("error: tuned/search.json ")


def test_two_searches_in_one_folder(recipe: Recipe) -> None:
    folder = begun(recipe, RATES, finished(2, [0.5]), trials=2)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another search, or a trial of one, is at work in tuned"):
            resume_search(folder)
    assert resume_search(folder).record["status"] == "finished"


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        ([], "no space to search was given", "name one with --space"),
        (["--space", "adapter.r"], "--space adapter.r: expected KEY=WHERE", "for example"),
        (["--space", "a=1,2", "--space", "a=3,4"], "--space a: is given twice", "list all choices"),
        (["--space", "adaptr.r=4,8"], "recipe: unknown key 'adaptr'", "did you mean 'adapter'?"),
        (["--space", "adapter.rr=4,8"], "adapter.rr: unknown key 'rr'", "did you mean 'r'?"),
        (["--space", "adapter.r=4,eight"], "adapter.r: input should be a valid integer, found \"eight\"", "whole"),
        (["--space", "adapter.r=0..8"], "adapter.r: must be", ""),
        (["--space", "adapter.r=4.0..8"], "adapter.r: input should be a valid integer, found 4.0", "whole"),
        (["--space", "train.learning_rate=-1.0..1.0"], "train.learning_rate: must be at least 0, found -1.0", ""),
        (["--space", "train.lr=1e-4..1e-3"], "train.lr: unknown key 'lr'", ""),
        (["--space", "trouble.kind=1,raise"], "trouble.kind: input should be a valid string, found 1", "quotes"),
        (["--space", "train.lr_scheduler_type=linear,cosin"], "train.lr_scheduler_type: there is no 'cosin'", "cosine"),
        (["--space", "tiny.drop=0.1,0.2"], "tiny.drop: unknown key 'drop'", "did you mean 'dropout'?"),
        (["--space", "train.seed=1..9"], "--space train.seed: each seed may set other rows aside", "data_seed=42"),
        (["--space", "adapter.r=4,8", "--trials", "0"], "--trials: expected at least 1, found 0", "20"),
        (["--space", "adapter.r=4,8", "--resume"], "nothing to resume: no folder was named", "--output-dir"),
        (["--space", "adapter.r=4,8", "--output-dir", "data"], "data is there already", "name another folder"),
    ],
)  # fmt: skip
def test_wrong_inputs(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str, hint: str
) -> None:
    assert main(["search", "tiny.yaml", *arguments]) == 2
    said, told, *_ = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {error}")
    assert told.startswith("hint: ")
    assert hint in told
    assert sorted(path.name for path in Path().iterdir()) == ["data", "tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["--metric", "acuracy"], "metric: no metric is named 'acuracy'", "did you mean 'accuracy'?"),
        (["--set", "data.source=data/train.jsonl", "--set", "data.validation_fraction=0",
          "--set", "train.eval_strategy=no"],
         "there are no validation rows to compare trials on", "data.validation_fraction=0.1"),
        (["--space", "adapter.target_modules=[q_proj],[q_prj]"],
         "adapter.target_modules: 'q_prj' matched no module", "q_proj"),
    ],
)  # fmt: skip
def test_what_only_data_and_model_can_tell(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str, hint: str
) -> None:
    assert main(["search", "tiny.yaml", "--space", "adapter.r=2,4", *arguments]) == 2
    printed = capsys.readouterr().err
    assert f"error: {error}" in printed
    assert hint in printed
    assert sorted(path.name for path in Path().iterdir()) == ["data", "tiny.yaml"]


def test_all_faults_of_a_space_come_together(recipe: Recipe) -> None:
    space = {"adapter.r": [4, "eight"], "train.learning_rate": "-1.0..1.0", "trouble.kind": [1, 2]}
    with pytest.raises(RecipeError) as caught:
        search(recipe, space, "not_written")
    assert [fault.message.partition(":")[0] for fault in caught.value.all] == [
        "trouble.kind", "train.learning_rate", "adapter.r", "trouble.kind",
    ]  # fmt: skip


def test_where_trials_differ_in_length_none_is_ended_early(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    space = {"train.num_train_epochs": "1..5"}
    folder = begun(recipe, space, finished(2, [0.5]), trials=2, prune=False)
    assert search(recipe, space, folder, trials=2, resume=True).settings.prune is False
    assert "no trial is ended early: with different train.num_train_epochs" in capsys.readouterr().err


def test_a_model_that_is_searched_has_no_samples_overlay(recipe: Recipe) -> None:
    """As with `--model`, what suits the sample is for the sample alone."""
    own = recipe.override(
        model="sample",
        data="sample",
        sample={"model": "tiny", "data": "data", "train": {"learning_rate": 0.5}},
    )
    tried = [Trial(1, {"model": "tiny"}, "finished", 0.5), Trial(2, {"model": "x"}, "failed", reason="y")]
    folder = begun(recipe.override(model="tiny"), {"model": ["tiny", "x"]}, tried, trials=2)
    found = search(own, {"model": ["tiny", "x"]}, folder, trials=2, resume=True)
    assert found.settings.recipe.train["learning_rate"] == 0.01
