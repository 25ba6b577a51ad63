"""The commands on a run, in process; and real signals to a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Install
from tests.core import tiny
from tests.core.tiny import rows
from toolkit import Recipe, run
from toolkit.cli import main


@pytest.fixture
def recipe_file(tiny_recipe: Recipe, in_tmp: Path) -> Path:
    for split, count in (("train", 20), ("validation", 5), ("test", 6)):
        Path("data").mkdir(exist_ok=True)
        lines = [json.dumps({"tokens": row["ids"]}) for row in rows(count, seed=count)]
        Path(f"data/{split}.jsonl").write_text("\n".join(lines) + "\n")
    tiny_recipe.override(data="data").dump("tiny.yaml")
    return Path("tiny.yaml")


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


TOGETHER = '''
"""Numbers and words in, each number with all the words."""
from toolkit import hookimpl

@hookimpl
def toolkit_predict():
    def predict(inputs):
        words = [one for one in inputs if not one.isdigit()]
        return {one: [{"word": word, "share": int(one) / 8} for word in words] for one in inputs if one.isdigit()}
    return predict
'''


def test_inputs_that_are_taken_together(
    recipe_file: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(
        "toolkit-tiny2",
        plugins={"two": "toolkit_two"},
        modules={"toolkit_two": tiny.PLUGIN.split("@hookimpl\ndef toolkit_predict")[0]},
    )
    install("toolkit-all", plugins={"all": "toolkit_all"}, modules={"toolkit_all": TOGETHER})
    recipe = Recipe.load("tiny.yaml").override(plugins=["two", "all"], train={"max_steps": 1})
    made = run(recipe, "first")
    given = ["4", "cat", "2", "dog", "4"]
    assert [len(one) for one in made.predict(given)] == [2, 2, 2]
    capsys.readouterr()
    found = as_json(capsys, "predict", "first", *given)["predictions"]
    assert [one["input"] for one in found] == ["4", "2", "4"]
    assert found[1]["output"] == [{"word": "cat", "share": 0.25}, {"word": "dog", "share": 0.25}]
    assert main(["predict", "first", "4", "cat", "dogs"]) == 0
    assert capsys.readouterr().out == "4:\n  cat   0.5000\n  dogs  0.5000\n"


def test_run_eval_predict(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = as_json(capsys, "run", "tiny.yaml", "--output-dir", "first", "--set", "train.max_steps=5")
    assert summary.pop("folder") == "first"
    assert summary == json.loads(Path("first/summary.json").read_text())
    assert summary["train"]["steps"] == 5
    measured = as_json(capsys, "eval", "first")
    assert (measured["split"], measured["rows"]) == ("test", 6)
    assert measured["metrics"] == pytest.approx(summary["after"], rel=1e-5)
    assert as_json(capsys, "eval", "first", "--data", "data/train.jsonl")["rows"] == 20
    predicted = as_json(capsys, "predict", "first", "3 4 5", "7 8")
    assert [one["input"] for one in predicted["predictions"]] == ["3 4 5", "7 8"]
    assert all(isinstance(one["output"], int) for one in predicted["predictions"])
    assert as_json(capsys, "resume", "first")["train"] == summary["train"]


def test_the_closing_table(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "tiny.yaml", "--output-dir", "first"]) == 0
    captured = capsys.readouterr()
    summary = json.loads(Path("first/summary.json").read_text())
    before, after = summary["before"]["loss"], summary["after"]["loss"]
    assert f"loss      {before:.4f}  {after:.4f}" in captured.out.splitlines()
    assert captured.out.splitlines()[-1] == "run folder: first"
    assert "before  test: loss" in captured.err
    assert "step 15/15  loss" in captured.err
    assert "tokens/s" in captured.err


def test_a_run_into_a_used_folder_is_refused(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "tiny.yaml", "--output-dir", "first", "--set", "train.max_steps=1"]
    assert main(arguments) == 0
    stamp = Path("first/summary.json").stat().st_mtime_ns
    assert main(arguments) == 2
    assert (
        "error: first holds another run\nhint: go on with it: toolkit resume first" in capsys.readouterr().err
    )
    assert Path("first/summary.json").stat().st_mtime_ns == stamp
    assert main([*arguments, "--resume"]) == 0
    assert Path("first/summary.json").stat().st_mtime_ns == stamp


def test_by_default_a_run_is_named_after_its_task_and_time(recipe_file: Path) -> None:
    assert main(["run", "tiny.yaml", "--set", "train.max_steps=1"]) == 0
    [folder] = Path("runs").iterdir()
    assert folder.name.startswith("tiny-20")


def test_eval_with_settings(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit is of the run's own rows; bad rows are named, and as many are allowed as is said."""
    as_json(capsys, "run", str(recipe_file), "--output-dir", "first", "--set", "data.limit=8")
    other = ["eval", "first", "--data", "data/train.jsonl"]
    assert as_json(capsys, *other)["rows"] == 20
    assert as_json(capsys, *other, "--set", "data.limit=5")["rows"] == 5
    with Path("data/train.jsonl").open("a") as file:
        file.write('{"text": 3}\n')
    assert main(other) == 2
    assert "1 of 21 rows cannot be used" in capsys.readouterr().err
    assert main([*other, "--json", "--set", "data.max_bad_fraction=0.1"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"] == 20
    assert "test row 20 is left out: " in printed.err
    assert main([*other, "--set", "model.dtype=float64"]) == 2
    assert "error: model: cannot be changed for a model that is trained" in capsys.readouterr().err
    assert main([*other, "--set", "eval.max_sampels=4"]) == 2
    assert "did you mean 'max_samples'?" in capsys.readouterr().err


def test_eval_of_a_run_without_a_model(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("begun").mkdir()
    Recipe.load("tiny.yaml").dump("begun/recipe.yaml")
    assert main(["eval", "begun"]) == 2
    assert "error: begun holds no trained model yet: the run is unfinished" in capsys.readouterr().err


def test_doctor(capsys: pytest.CaptureFixture[str], in_tmp: Path) -> None:
    document = as_json(capsys, "doctor")
    assert document["ok"] is True
    assert {"import torch", "plugin whisper", "write here"} <= {one["name"] for one in document["checks"]}
    assert list(in_tmp.iterdir()) == []


def start(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    paths = [str(tmp_path / "site-packages"), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "toolkit", "run", "tiny.yaml", "--output-dir", "first", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_file(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_the_run_goes_on(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, status: int
) -> None:
    process = start(tmp_path, "--set", "train.num_train_epochs=400", "--set", "train.save_strategy=no")
    wait_for_lines(Path("first/metrics.jsonl"), 4, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    assert "go on with: toolkit resume first" in err
    assert "Traceback" not in err
    summary = json.loads(Path("first/summary.json").read_text())
    assert summary["status"] == "interrupted"
    [saved] = Path("first/checkpoints").glob("checkpoint-*/manifest.json")
    assert saved.parent.name == f"checkpoint-{summary['train']['steps']}"
    steps = summary["train"]["steps"] + 5
    Recipe.load("first/recipe.yaml").override(train={"max_steps": steps}).dump("first/recipe.yaml")
    again = as_json(capsys, "resume", "first")
    assert again["train"]["resumed_from"] == summary["train"]["steps"]
    assert again["train"]["steps"] == steps


@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_that_nobody_listens_any_more_stops_nothing(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int | None
) -> None:
    """As when a pager ends, or `tee` is ended by the same Ctrl-C."""
    more = ["--set", "train.num_train_epochs=400"] if number else []
    process = start(tmp_path, "--set", "train.save_strategy=no", *more)
    assert process.stderr is not None
    assert process.stderr.readline()
    process.stderr.close()
    if number is not None:
        wait_for_lines(Path("first/metrics.jsonl"), 4, process)
        process.send_signal(number)
    assert process.wait(timeout=120) == (130 if number else 0)
    summary = json.loads(Path("first/summary.json").read_text())
    assert summary["status"] == ("interrupted" if number else "finished")
    if number is not None:
        [saved] = Path("first/checkpoints").glob("checkpoint-*/manifest.json")
        assert saved.parent.name == f"checkpoint-{summary['train']['steps']}"


LONG_STEP = """
    import time
    from pathlib import Path
    from transformers import TrainerCallback
    from toolkit import hookimpl

    class LongStep(TrainerCallback):
        # The seventh step never ends, once.
        def on_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 6 and not Path("in_step").exists():
                Path("in_step").touch()
                time.sleep(120)

    @hookimpl
    def toolkit_callbacks(recipe):
        return [LongStep()]
"""


def test_a_second_sigint_stops_at_once(
    recipe_file: Path, install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the midst of a step, whose work is lost; the run goes on from its last checkpoint as if nothing had been."""
    install("toolkit-long", plugins={"long": "toolkit_long"}, modules={"toolkit_long": LONG_STEP})
    Recipe.load("tiny.yaml").override(plugins=["tiny", "long"]).dump("tiny.yaml")
    process = start(tmp_path, "--json")
    wait_for_file(Path("in_step"), process)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None  # it waits for the step's end
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 130, err
    assert "SIGINT: stopping after this step" in err
    assert "stopped at once\ninterrupted by SIGINT; go on with: toolkit resume first\n" in err
    assert json.loads(out) == {"status": "interrupted", "folder": "first"}
    assert "Traceback" not in err
    assert json.loads(Path("first/summary.json").read_text())["status"] == "interrupted"
    assert as_json(capsys, "resume", "first")["train"]["resumed_from"] == 4
    assert main(["run", "tiny.yaml", "--output-dir", "whole"]) == 0
    assert Path("first/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()


def test_sigusr1_saves_and_goes_on(recipe_file: Path, tmp_path: Path) -> None:
    process = start(tmp_path, "--set", "train.num_train_epochs=400", "--set", "train.save_strategy=no")
    wait_for_lines(Path("first/metrics.jsonl"), 4, process)
    process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 120
    while not list(Path("first/checkpoints").glob("checkpoint-*/manifest.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None
    process.kill()
    process.communicate()
