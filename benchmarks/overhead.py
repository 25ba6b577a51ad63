"""What the toolkit costs beside the work itself: before the first step, at each step, and where there is no work."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.bare import without_weights
from benchmarks.frame import Measured, Setting, Side, Size, Target, Workload, measuring, succeed

BOTH: tuple[Size, ...] = ("small", "full")
KINDS = {
    "text": ("causal-lm", "llama", "chats"),
    "speech": ("whisper-asr", "whisper", "speech"),
    "images": ("clip-contrastive", "clip", "images"),
}
"""Of a script's argument: the task that is the same, the kind of model, and of data."""

# ---- from the start of the process to the first step ------------------------------------------------------

END_AT_FIRST_STEP = '''"""Ends the process when the first training step would begin."""
import os
from toolkit import hookimpl

@hookimpl
def toolkit_callbacks():
    from transformers import TrainerCallback
    class EndAtFirstStep(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            os._exit(0)
    return [EndAtFirstStep()]
'''


def _script(kind: str) -> Callable[[Setting], Measured]:
    def run(setting: Setting) -> Measured:
        _, model, data = KINDS[kind]
        script = str(Path(__file__).with_name("bare.py"))
        return _timed(
            [script, kind, setting.model(model), setting.data(data), str(setting.folder / "run")], setting
        )

    return run


def _toolkit(kind: str) -> Callable[[Setting], Measured]:
    def run(setting: Setting) -> Measured:
        task, model, data = KINDS[kind]
        command = ["-m", "toolkit", "run", "--task", task, "--model", setting.model(model), "--data",
                   setting.data(data), "--set", "eval.before=false", "--set", "train.per_device_train_batch_size=8",
                   "--set", f"cache.dir={setting.folder / 'cache'}", "--output-dir", str(setting.folder / "run"),
                   "--plugin", "first-step"]  # fmt: skip
        if without_weights(setting.model(model)):
            command += ["--set", "model.from_config=true", "--set", "adapter=null"]
        return _timed(command, setting)

    return run


def _timed(arguments: list[str], setting: Setting) -> Measured:
    """Start Python with the arguments, where a plugin is installed that ends a run at its first step."""
    site = setting.folder / "site"
    install(site, "first-step", END_AT_FIRST_STEP)
    with measuring() as meter:
        succeed([sys.executable, *arguments], environment_with(site))
    return meter.measured({"starts": 1})


def install(site: Path, name: str, source: str) -> None:
    """Put a distribution with one plugin into a folder of packages."""
    module = f"toolkit_{name.replace('-', '_')}"
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toolkit-{name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[toolkit.plugins]\n{name} = {module}\n")
    (site / f"{module}.py").write_text(source)


def environment_with(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(site)])}


def _first_step(kind: str, summary: str) -> Workload:
    return Workload(
        f"first-step-{kind}",
        f"from the start of the process to the first training step, {summary}",
        sides=[Side("script", _script(kind)), Side("toolkit", _toolkit(kind))],
        baseline="script",
        targets=[Target("toolkit", "cpu_seconds", at_most=1.15, sizes=BOTH)],
    )


# ---- at each step -----------------------------------------------------------------------------------------

TURNS = 6
STEPS_A_TURN = 50


def _steps(setting: Setting) -> Measured:
    """Steps of a tiny model by our trainer as a run makes it and by transformers' own, in turn, in one process."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        for make in (_ours, _theirs):
            _milliseconds(make(setting))
        with measuring() as meter:
            turns = [[_milliseconds(make(setting)) for make in (_ours, _theirs)] for _ in range(TURNS)]
    ours, theirs = (statistics.median(values) for values in zip(*turns, strict=True))
    quality = {"ms_a_step": ours, "ms_a_step_upstream": theirs, "added_ms": ours - theirs}
    return meter.measured({"steps": 2 * TURNS * STEPS_A_TURN}, quality)


def _milliseconds(trainer: Any) -> float:
    """CPU time of a step, the median over one training."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.process_time())

    trainer.add_callback(Clock())
    trainer.train()
    return 1000 * statistics.median(after - before for before, after in itertools.pairwise(marks))


def _execution(setting: Setting) -> Any:
    """A run of the causal-lm task on the sample's rows, made but not begun."""
    from toolkit import Recipe
    from toolkit.execution import Execution
    from toolkit.folder import RunFolder
    from toolkit.opening import open_data, open_model
    from toolkit.plugins import Plugins
    from toolkit.signals import Signals

    train = {"max_steps": STEPS_A_TURN, "eval_strategy": "no", "save_strategy": "no", "logging_steps": 10,
             "train_sampling_strategy": "random", "per_device_train_batch_size": 2, "seed": setting.seed}  # fmt: skip
    plugins = Plugins(Recipe.load("causal-lm").override(train=train, adapter=None).resolved())
    files = RunFolder(Path(mkdtemp(dir=setting.folder)))
    splits = open_data(plugins, None)
    _, processor = open_model(plugins, (None, None), setting.seed)
    return Execution(plugins, files, splits, _tiny(processor), processor, Signals())


def _tiny(tokenizer: Any) -> Any:
    """A model whose step takes hardly any time, so that what is around it shows."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))


def _ours(setting: Setting) -> Any:
    return _execution(setting).trainer


def _theirs(setting: Setting) -> Any:
    from transformers import Trainer, TrainingArguments

    execution = _execution(setting)
    collate = execution.trainer.data_collator.collate
    kept = {name: getattr(execution.arguments, name) for name in ("per_device_train_batch_size", "learning_rate",
            "max_steps", "logging_steps", "save_strategy", "lr_scheduler_type")}  # fmt: skip
    folder = str(setting.folder / "theirs")
    arguments = TrainingArguments(folder, remove_unused_columns=False, report_to="none", **kept)
    return Trainer(
        execution.model, arguments, lambda rows: _plain(collate(rows)), train_dataset=_Rows(execution)
    )


def _plain(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("num_targets", "row_id", "work")}


class _Rows:
    """The training rows, prepared as in the run, as a dataset of transformers' trainer."""

    def __init__(self, execution: Any) -> None:
        rows = execution.rows["train"]
        self.rows, self.ids, self.prepare = rows.rows, rows.row_ids, rows.prepare

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return {**self.prepare({**self.rows[index], "row_id": self.ids[index]}), "row_id": self.ids[index]}


# ---- where there is no work -------------------------------------------------------------------------------

STARTS = 8
INSTALLED = 100


def _both(command: list[str], environment: dict[str, str]) -> Measured:
    commands = ([sys.executable, "-c", "pass"], [sys.executable, "-m", "toolkit", *command])
    times: tuple[list[float], list[float]] = ([], [])
    with measuring() as meter:
        for _ in range(STARTS + 1):
            for one, seconds in zip(commands, times, strict=True):
                start = time.perf_counter()
                succeed(one, environment)
                seconds.append(time.perf_counter() - start)
    empty, ours = (statistics.median(seconds[1:]) for seconds in times)
    return meter.measured({"starts": 2 * (STARTS + 1)}, {"seconds_each": ours, "over_empty": ours - empty})


def _help(setting: Setting) -> Measured:
    return _both(["--help"], environment_with(setting.folder))


def _tasks(installed: int) -> Callable[[Setting], Measured]:
    def run(setting: Setting) -> Measured:
        site = setting.folder / "site"
        for number in range(installed):
            install(site, f"extra-{number}", '"""One of many plugins."""\n')
        return _both(["tasks"], environment_with(site))

    return run


WORKLOADS = [
    _first_step("text", "a language model and LoRA on all its linear layers"),
    _first_step("speech", "Whisper and LoRA on its attention"),
    _first_step("images", "CLIP and LoRA on its attention"),
    Workload(
        "step",
        "a step of our trainer in a run against one of transformers', the same tiny model, rows and collator",
        sides=[Side("toolkit", _steps)],
        baseline="toolkit",
        targets=[Target("toolkit", "added_ms", at_most=1.0, alone=True, sizes=BOTH)],
    ),
    Workload(
        "help",
        "`toolkit --help`, and how much longer than a Python that does nothing",
        sides=[Side("toolkit", _help)],
        baseline="toolkit",
        targets=[Target("toolkit", "over_empty", at_most=0.25, alone=True, sizes=BOTH)],
    ),
    Workload(
        "plugins-installed",
        "`toolkit tasks` with no plugin installed beside ours and with a hundred",
        sides=[Side("none", _tasks(0)), Side("hundred", _tasks(INSTALLED))],
        baseline="none",
        targets=[Target("hundred", "over_empty", at_most=0.25, alone=True, sizes=BOTH)],
    ),
]
