"""What answers at once must import nothing heavy; measured in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "torchaudio",
    "soundfile",
    "numpy",
    "optuna",
    "toolkit_causal_lm",
    "toolkit_whisper",
    "toolkit_tasks",
)

PROGRAM = """
import sys
{statement}
loaded = sorted(set({heavy!r}) & set(sys.modules))
print(",".join(loaded), file=sys.stderr)
"""


def loaded_by(statement: str) -> str:
    program = PROGRAM.format(statement=statement, heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["check", "--help"],
        ["search", "--help"],
        ["tasks"],
        ["plugins", "--json"],
        ["eval", "--help"],
        ["new", "--help"],
    ],
)
def test_commands_that_answer_at_once(arguments: list[str]) -> None:
    statement = f"from toolkit.cli import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    assert loaded_by(statement) == ""


def test_writing_a_package() -> None:
    statement = "import os, tempfile\nfrom toolkit.cli import main\nos.chdir(tempfile.mkdtemp())\nmain(['new', 'leaf'])"
    assert loaded_by(statement) == ""


def test_importing_the_toolkit_and_its_plain_names() -> None:
    assert (
        loaded_by(
            "import toolkit\nfrom toolkit import Recipe, Run, run, load_run, hookimpl, Loss, Metric, Column"
        )
        == ""
    )


def test_importing_the_kit_for_tests() -> None:
    """pytest imports its plugin wherever the toolkit is installed."""
    assert loaded_by("import toolkit.testing.pytest_plugin") == ""
    assert (
        loaded_by("from toolkit.testing import check_plugin, examine, Project, Outcome, Report, Result") == ""
    )


def test_importing_a_task_imports_no_plugin() -> None:
    assert loaded_by("from toolkit_tasks.whisper_asr import recipe") == "toolkit_tasks"


def test_importing_a_plugin_is_light() -> None:
    assert loaded_by("import toolkit_whisper") == "toolkit_whisper"
    assert loaded_by("import toolkit_causal_lm") == "toolkit_causal_lm"
