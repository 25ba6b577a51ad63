"""Runs that are killed at random moments, again and again, and end as if nothing had been.

    python -m tests.torture.torture [--kills 30] [--seed 0]

Each case is a sample task with settings of its own. It is run once undisturbed; then it is begun, killed with SIGKILL
at a moment drawn by chance, resumed, killed again. When it has ended, weights, metrics, logged losses and samples are
compared with those of the undisturbed run, bit by bit. Each life is a process, forked from this one so that it need
not import everything again.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit import Recipe, checkpoint, run

SHORT: dict[str, Any] = {
    "data": {"limit": 40},
    "eval": {"max_samples": 8},
    "train": {
        "max_steps": 12, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps",
        "save_steps": 2, "save_total_limit": 2, "use_cpu": True, "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
    },
}  # fmt: skip
DECODER = ["decoder.layers.*.self_attn.q_proj", "decoder.layers.*.self_attn.v_proj"]
TEXT_TOWER = ["text_model.encoder.layers.*.self_attn.q_proj", "text_model.encoder.layers.*.mlp.fc1"]

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text: LoRA, accumulation, workers, length grouping, early stopping": (
        "causal-lm",
        {
            "train": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "dataloader_num_workers": 2,
                      "learning_rate": 0.05, "eval_steps": 2},
            "eval": {"early_stopping_patience": 2},
        },
    ),
    "text: 4-bit, packing, shuffling": (
        "causal-lm",
        {
            "model": {"quantization": "4bit"},
            "train": {"train_sampling_strategy": "random"},
            "causal-lm": {"packing": True},
        },
    ),
    "text: workers that persist, a line an epoch, the best weights": (
        "causal-lm",
        {
            "data": {"limit": 16},
            "train": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "eval_steps": 2,
                      "logging_strategy": "epoch", "save_steps": 6, "load_best_model_at_end": True,
                      "metric_for_best_model": "loss"},
            "causal-lm": {"packing": False},
        },
    ),
    "speech: LoRA on the decoder, the encoder in the cache, checkpoints by epoch": (
        "whisper-asr",
        {
            "adapter": {"target_modules": DECODER},
            "train": {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 3},
            "data": {"limit": 16},
        },
    ),
    "speech: augmentation, workers, accumulation": (
        "whisper-asr",
        {
            "whisper": {"speed": 0.1, "noise_snr_db": [5, 30], "time_masks": 2, "frequency_masks": 1},
            "train": {"dataloader_num_workers": 1, "gradient_accumulation_steps": 2, "max_steps": 8},
        },
    ),
    "pictures: large batches in parts, one tower in the cache": (
        "clip-contrastive",
        {
            "adapter": {"target_modules": TEXT_TOWER},
            "clip": {"micro_batch_size": 8},
            "train": {"per_device_train_batch_size": 20},
        },
    ),
}  # fmt: skip

MOMENTS: dict[str, tuple[str, ...]] = {
    "in a step": ("toolkit.trainer:Trainer.training_step",),
    "as a checkpoint is written": (
        "toolkit.resuming:ResumableTrainer._write_checkpoint",
        "toolkit.checkpoint:complete",
        "toolkit.checkpoint:rotate",
    ),
    "as the cache is written": ("toolkit.cache:TensorStore.write",),
    "in an evaluation": ("toolkit.trainer:Trainer._scores", "toolkit.folder:RunFolder.add_sample"),
    "as data are prepared": ("toolkit.data.rows:PreparedRows.__getitem__", "toolkit.opening:open_data"),
    "as a line is logged": ("toolkit.folder:RunFolder.add_metrics",),
    "as the model is saved": ("toolkit.folder:RunFolder.finish_model", "toolkit.execution:write_card"),
    "at any time": (),
}
_LONGEST_SECONDS = 0.06


@dataclass(frozen=True)
class Moment:
    """When a life ends: so many calls into a function and some time later, or so long after the start."""

    name: str
    function: str | None
    calls: int
    seconds: float


@dataclass(frozen=True)
class Kill:
    """One kill that came, and what it left: the newest complete checkpoint's step, or None."""

    moment: str
    left: int | None


def moments(chance: random.Random, seconds: float, caches: bool) -> Iterator[Moment]:
    """Moments without end, every kind in turn, in random order; first as the cache is written, which soon is full."""
    first = ["as the cache is written"] if caches else []
    while True:
        names = first + chance.sample(list(MOMENTS), len(MOMENTS))
        first = []
        for name in names:
            functions = MOMENTS[name]
            if not functions:
                yield Moment(name, None, 0, chance.uniform(0.2, seconds))
            else:
                after = chance.choice((0.0, chance.uniform(0, _LONGEST_SECONDS)))
                yield Moment(name, chance.choice(functions), chance.choice((1, 1, 2, 3, 5)), after)


def arm(moment: Moment) -> None:
    """In a process that shall die: see that it does."""
    pid = os.getpid()

    def die_after(seconds: float) -> None:
        if seconds:
            timer = threading.Timer(seconds, os.kill, (pid, signal.SIGKILL))
            timer.daemon = True
            timer.start()
        else:
            os.kill(pid, signal.SIGKILL)

    if moment.function is None:
        die_after(moment.seconds)
        return
    calls = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(real)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment.calls:
                die_after(moment.seconds)
            return real(*args, **kwargs)

        return call

    module, _, name = moment.function.partition(":")
    *owners, last = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    setattr(owner, last, counted(getattr(owner, last)))


def life(recipe: Recipe, folder: Path, moment: Moment | None) -> int:
    """One process that begins or resumes a run; how it ended, as `os.waitstatus_to_exitcode` has it."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 1
    try:
        with (folder.parent / f"{folder.name}.txt").open("a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        print(f"---- {moment}", flush=True)
        if moment is not None:
            arm(moment)
        run(recipe, folder, resume=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def outcome(folder: Path) -> dict[str, Any]:
    """What has to be the same."""
    summary = json.loads((folder / "summary.json").read_text())
    weights = next((folder / "model").glob("*model.safetensors"))
    return {
        "weights": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "metrics": (folder / "metrics.jsonl").read_text().splitlines(),
        "samples": (folder / "samples.jsonl").read_text().splitlines(),
        **{key: summary[key] for key in ("status", "before", "after", "rows")},
        **{key: summary["train"][key] for key in ("steps", "epochs", "loss")},
    }


class Torture:
    """One case: an undisturbed run, and others that are killed."""

    def __init__(self, name: str, folder: Path, seed: int) -> None:
        self.name, self.folder = name, folder
        task, changes = CASES[name]
        self.recipe = Recipe.load(task).override(**SHORT).override(**changes)
        self.chance = random.Random(f"{seed} {name}")
        folder.mkdir(parents=True)
        started = time.monotonic()
        if life(self._recipe("undisturbed"), folder / "undisturbed", None):
            raise SystemExit(
                f"{name}: the undisturbed run failed:\n{(folder / 'undisturbed.txt').read_text()}"
            )
        self.seconds = time.monotonic() - started
        self.moments = moments(self.chance, self.seconds, "in the cache" in name)

    def _recipe(self, cache: str) -> Recipe:
        return self.recipe.override(cache={"dir": str(self.folder / f"cache-of-{cache}")})

    def kill(self, times: int) -> list[Kill]:
        """Kill a run so many times, and another one where it has ended before, and compare what becomes of each.

        Raises:
            AssertionError: something is not as in the undisturbed run, or a run does not go on.
        """
        kills: list[Kill] = []
        runs = 0
        while len(kills) < times:
            runs += 1
            folder = self.folder / f"run-{runs}"
            kills += self._one(folder, times - len(kills))
            shutil.rmtree(folder)
            shutil.rmtree(self.folder / f"cache-of-{folder.name}", ignore_errors=True)
        return kills

    def _one(self, folder: Path, most: int) -> list[Kill]:
        recipe, kills = self._recipe(folder.name), []
        while True:
            left = _newest(folder)
            moment = next(self.moments) if len(kills) < most else None
            status = life(recipe, folder, moment)
            said = (folder.parent / f"{folder.name}.txt").read_text()
            self._check_resumed(said, left)
            if status == 0:
                break
            assert status == -signal.SIGKILL, f"{self.name}: it ended with {status}\n{said}"
            assert moment is not None
            kills.append(Kill(moment.name, _newest(folder)))
        expected, found = outcome(self.folder / "undisturbed"), outcome(folder)
        for key, value in expected.items():
            assert found[key] == value, f"{self.name}: {key}: {found[key]}\ninstead of {value}\n{said}"
        resumed = json.loads((folder / "summary.json").read_text())["train"]["resumed_from"]
        assert (resumed or None) == left, (
            f"{self.name}: resumed from {resumed} where {left} was there\n{said}"
        )
        return kills

    def _check_resumed(self, said: str, left: int | None) -> None:
        """What the last life said of where it went on, if it came so far."""
        last = said.rsplit("\n---- ", 1)[-1]
        found = re.search(r"^going on from checkpoint-(\d+)$|^(no checkpoint yet)", last, re.MULTILINE)
        if found is not None:
            step = int(found[1]) if found[1] else None
            assert step == left, f"{self.name}: went on from {step} where {left} was there\n{said}"


def _newest(folder: Path) -> int | None:
    found = checkpoint.newest(folder / "checkpoints")
    if found is None:  # of the one that was there a moment ago, as the next life will find it
        before = [one for one in (folder / "checkpoints").glob(".*.before") if checkpoint.damage(one) is None]
        return int(before[0].name.split("-")[1].removesuffix(".before")) if before else None
    return checkpoint.step_of(found)


def warm() -> None:
    """Import what every life needs."""
    for name in (
        "toolkit.execution",
        "toolkit.opening",
        "toolkit_causal_lm",
        "toolkit_whisper",
        "toolkit_clip",
    ):
        importlib.import_module(name)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="only this one, counted from 0")
    options = parser.parse_args()
    warm()
    names = list(CASES) if options.case is None else [list(CASES)[options.case]]
    every: list[Kill] = []
    started = time.monotonic()
    for number, name in enumerate(names):
        share = options.kills * (number + 1) // len(names) - options.kills * number // len(names)
        with tempfile.TemporaryDirectory() as folder:
            torture = Torture(name, Path(folder) / "case", options.seed)
            kills = torture.kill(share)
        every += kills
        print(f"{name}: {len(kills)} kills, the same as undisturbed ({torture.seconds:.0f} s)", flush=True)
    print(f"\n{len(every)} kills in {time.monotonic() - started:.0f} s")
    for moment, count in Counter(kill.moment for kill in every).most_common():
        print(f"{count:4d} {moment}")
    print(f"{sum(kill.left is not None for kill in every):4d} of them with a checkpoint to go on from")


if __name__ == "__main__":
    main()
