"""Two processes carry out one run as one process does, and what becomes of the run when one of them is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Install
from tests.core import tiny
from tests.core.test_reliability import POISON
from toolkit import Recipe
from toolkit.cli import main

pytestmark = pytest.mark.slow

NO_DROPOUT = ["--set", "adapter.lora_dropout=0"]
FEW = ["--set", "data.limit=40", "--set", "eval.max_samples=13", "--set", "train.logging_steps=2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def command(task: str, folder: Path, batch: int, steps: int, *more: str) -> list[str]:
    return [
        "run", "--task", task, "--output-dir", str(folder), *NO_DROPOUT, *FEW,
        "--set", f"train.per_device_train_batch_size={batch}", "--set", f"train.max_steps={steps}", *more,
    ]  # fmt: skip


def started(arguments: list[str], program: Sequence[str] = ("-m", "toolkit")) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*TORCHRUN, *program, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """The same adapter, the same lines, the same before and after; sums of floats are added up in another order."""
    ours, theirs = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.allclose(tensor, theirs[name], rtol=1e-3, atol=2e-5), name
    for here, there in zip(lines(one), lines(other), strict=True):
        assert here.pop("split") == there.pop("split")
        assert here == pytest.approx(there, rel=2e-3, abs=1e-4)
    for key in ("before", "after", "rows"):
        assert summary(one)[key] == pytest.approx(summary(other)[key], rel=2e-3)
    losses = [summary(folder)["train"]["loss"] for folder in (one, other)]
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)


@pytest.mark.parametrize("rows", [40, 13, 9])
@pytest.mark.parametrize("task", ["whisper-asr", "causal-lm", "clip-contrastive"])
def test_two_processes_make_one_run(task: str, rows: int, tmp_path: Path) -> None:
    """Also over the end of an epoch whose last step has fewer rows, or but one for the two of them."""
    more = ["--set", f"data.limit={rows}"]
    if rows < 40:  # of a gradient next to nothing, as of few rows, Adam would see the sign alone
        more += ["--set", "train.adam_epsilon=1e-4"]
    assert main(command(task, tmp_path / "one", 8, 3, *more)) == 0
    process = started([*command(task, tmp_path / "two", 4, 3, *more), "--json"])
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert json.loads(printed)["status"] == "finished"
    assert said.count(f"{task}: preparing") == said.count("after   test:") == 1
    assert_same_run(tmp_path / "one", tmp_path / "two")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    listing = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(one) for one in listing.split()]


def wait_for(place: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not place.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


STEPS = 30
BY_STEPS = [
    "--set",
    "train.save_steps=2",
    "--set",
    "train.save_strategy=steps",
    "--set",
    "train.eval_strategy=no",
    "--set",
    "train.logging_steps=7",
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    process = started(command("causal-lm", folder, 4, STEPS, *BY_STEPS))
    _, said = process.communicate()
    assert process.returncode == 0, said
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_process_is_lost(number: signal.Signals, undisturbed: Path, tmp_path: Path) -> None:
    """Killed, it takes the others with it; asked to stop, all of them save and stop. Either way the run goes on."""
    folder = tmp_path / "run"
    process = started(command("causal-lm", folder, 4, STEPS, *BY_STEPS))
    wait_for(folder / "checkpoints" / "checkpoint-4" / "manifest.json", process)
    os.kill(workers_of(process)[-1], number)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert summary(folder)["status"] == ("failed" if number == signal.SIGKILL else "interrupted"), said
    if number == signal.SIGKILL:
        assert summary(folder)["error"].startswith("another process of the run was lost (connection ")
    resumed = started(["resume", str(folder)])
    _, said = resumed.communicate()
    assert resumed.returncode == 0, said
    assert summary(folder)["train"]["resumed_from"] >= 4
    ours, theirs = (load_file(one / "model" / "adapter_model.safetensors") for one in (folder, undisturbed))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert lines(folder) == lines(undisturbed)
    assert summary(folder)["train"]["loss"] == summary(undisturbed)["train"]["loss"]


RAISES = """
    import os
    from toolkit import hookimpl

    @hookimpl
    def toolkit_wrap_loss(recipe):
        def wrap(loss):
            def raising(model, batch):
                if os.environ["RANK"] == "1":
                    raise ValueError("of the second process")
                return loss(model, batch)
            return raising
        return wrap
"""


def tiny_run(
    install: Install, monkeypatch: pytest.MonkeyPatch, folder: Path, other: str, **train: Any
) -> tuple[subprocess.Popen[str], str]:
    """Two processes with the tiny plugin and the one whose source is `other`, and what they have said."""
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": tiny.PLUGIN})
    install("toolkit-other", plugins={"other": "toolkit_other"}, modules={"toolkit_other": other})
    site = folder.parent / "site-packages"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), *sys.path]))
    data = folder.parent / "data"
    data.mkdir()
    lines_of_data = [json.dumps({"ids": row["ids"]}) for row in tiny.rows(16)]
    (data / "train.jsonl").write_text("\n".join(lines_of_data))
    train = {"use_cpu": True, "max_steps": 4, "per_device_train_batch_size": 2, "save_steps": 1,
             "train_sampling_strategy": "sequential", "save_strategy": "steps", **train}  # fmt: skip
    recipe = Recipe(
        name="tiny",
        plugins=["tiny", "other"],
        model="tiny",
        train=train,
        data={"source": str(data), "validation_fraction": 0.0},
    )
    recipe.dump(folder.parent / "tiny.yaml")
    process = started(["run", str(folder.parent / "tiny.yaml"), "--output-dir", str(folder)])
    _, said = process.communicate(timeout=120)
    return process, said


def test_what_ends_one_process_stands_in_the_summary(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, said = tiny_run(install, monkeypatch, tmp_path / "run", RAISES)
    assert process.returncode != 0
    assert summary(tmp_path / "run")["error"] == "ValueError: of the second process", said


@pytest.mark.parametrize("on_nan_inf", ["stop", "skip"])
def test_bad_numbers_of_one_process(
    on_nan_inf: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process alone has the row: both end, and the row is named once; or both leave out the same step."""
    folder, poison = tmp_path / "run", POISON.replace("VALUE", "nan").replace("3 in", "7 in")
    process, said = tiny_run(install, monkeypatch, folder, poison, on_nan_inf=on_nan_inf)
    found = summary(folder)
    if on_nan_inf == "stop":
        assert process.returncode != 0
        assert said.count("step 2: the loss is nan, and no step was taken; its rows:") == 1, said
        assert "train row 7" in said
        assert "train row 5" not in said
        assert found["status"] == "failed"
        assert (folder / "checkpoints" / "checkpoint-1" / "manifest.json").exists()
    else:
        assert process.returncode == 0, said
        assert (
            said.count("is skipped: ")
            == said.count("step 2 is skipped: the loss is nan; its rows: train row")
            == 1
        )
        assert (found["train"]["steps"], found["train"]["skipped"]) == (4, 1)
        trained = load_file(next((folder / "model").glob("*.safetensors")))
        assert all(bool(torch.isfinite(one).all()) for one in trained.values())


NAMES_ITS_THREADS = """
import atexit, contextlib, pathlib, sys
from toolkit.cli import main

def tell():
    names = []
    for thread in pathlib.Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            names.append((thread / "comm").read_text().strip())
    print("at the end:", *names)

atexit.register(tell)
sys.exit(main(sys.argv[1:]))
"""


def test_no_thread_of_gloo_outlives_a_run(tmp_path: Path) -> None:
    """One that lets go of a tensor while the interpreter ends aborts the process, of a run that is finished."""
    program = tmp_path / "program.py"
    program.write_text(NAMES_ITS_THREADS)
    process = started(command("clip-contrastive", tmp_path / "two", 4, 1), [str(program)])
    printed, said = process.communicate()
    assert process.returncode == 0, said
    threads = [line for line in printed.splitlines() if line.startswith("at the end: ")]
    assert len(threads) == 2
    assert all("python" in line and "gloo" not in line for line in threads)


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    process = started(
        command("clip-contrastive", tmp_path / "two", 4, 2, "--data", str(tmp_path / "nowhere"))
    )
    _, said = process.communicate()
    assert process.returncode != 0
    assert said.count("error: ") == 1
    assert not (tmp_path / "two").exists()
