"""Laws of the hooks as they are written: cheap, before any model is used."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from toolkit.errors import PluginError
from toolkit.plugins import Plugins
from toolkit.recipe import Recipe
from toolkit.testing.subject import Subject
from toolkit.types import Row

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "torchaudio",
    "torchvision",
    "tensorflow",
    "jax",
)
_PROGRAM = "import sys, importlib; importlib.import_module(sys.argv[1]); print(*sys.modules)"


def hooks_are_spelt_right(subject: Subject) -> None:
    """The plugin loads; its hooks are spelt, decorated and ask for arguments as the contract says."""
    Plugins(Recipe(name="contract", plugins=[subject.name]))


def imports_nothing_heavy(subject: Subject) -> None:
    """Importing the plugin imports nothing heavy, such as torch or transformers."""
    command = [sys.executable, "-c", _PROGRAM, subject.plugin.entry.module]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise PluginError(
            f"importing {subject.plugin.entry.module} alone fails: {done.stderr.strip().splitlines()[-1]}",
            hint="import what the module needs where it needs it",
        )
    if heavy := [name for name in HEAVY if name in done.stdout.split()]:
        raise PluginError(
            f"importing {subject.plugin.entry.module} imports {', '.join(heavy)}",
            hint="import them inside the hooks: every command that lists or checks would wait for them",
        )


def opens_its_task(subject: Subject) -> None:
    """In a task that names the plugin, settings are accepted, the model loads, and rows are read and prepared."""
    subject.plugins.check()
    model, processor = subject.loaded
    if subject.has("toolkit_model") and not hasattr(model, "parameters"):
        raise PluginError(
            f"toolkit_model's callable returned a {type(model).__name__} for a model",
            hint="return (model, processor)",
        )
    _ask_everything(subject, processor)
    for row in subject.raw_rows:
        _tell_of(subject, row)


def _ask_everything(subject: Subject, processor: object) -> None:
    """Each hook that builds or lists, so that an answer of another kind is found here."""
    plugins = subject.plugins
    for ask in (plugins.dataset, plugins.adapt, plugins.row_length, plugins.augment, plugins.loss, plugins.step,
                plugins.callbacks):  # fmt: skip
        ask()
    for ask_with in (plugins.inspect, plugins.prepare, plugins.show, plugins.collator, plugins.evaluate_batch,
                     plugins.metrics):  # fmt: skip
        ask_with(processor)


def _tell_of(subject: Subject, row: Row) -> None:
    """What the plugin says of a row: facts, its length, how it looks."""
    plugins, processor = subject.plugins, subject.processor
    asked = {
        "toolkit_inspect": (plugins.inspect(processor), row, Mapping),
        "toolkit_row_length": (plugins.row_length(), row, int | float),
        "toolkit_show": (plugins.show(processor), subject.prepare(row), str),
    }
    for hook, (tell, given, kind) in asked.items():
        if subject.has(hook) and tell is not None and not isinstance(said := tell(given), kind):
            raise PluginError(
                f"{hook}'s callable returned a {type(said).__name__} for a row",
                hint="see the hook's example in toolkit/hookspecs.py",
            )
