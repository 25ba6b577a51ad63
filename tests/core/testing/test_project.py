"""The fixture `project`: commands in a folder of the test's own, and what can be asserted of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.tiny import rows
from toolkit import Recipe
from toolkit.testing import Project


@pytest.fixture
def tiny_project(project: Project, tiny_recipe: Recipe) -> Project:
    project.write("data/train.jsonl", rows(20))
    project.write("data/test.jsonl", rows(5, seed=3))
    tiny_recipe.override(data="data", train={"max_steps": 2}).dump(project.folder / "tiny.yaml")
    return project


def test_a_run_and_its_summary(tiny_project: Project) -> None:
    outcome = tiny_project.run("run", "tiny.yaml", "--output-dir", "first", "--json").assert_finished()
    assert outcome.run_folder == tiny_project.folder / "first"
    assert outcome.json["after"] == outcome.summary["after"]
    assert set(outcome.summary["after"]) == {"loss", "accuracy"}
    assert "preparing first" in outcome.err
    again = tiny_project.run("resume", "first").assert_finished()
    assert again.summary == outcome.summary
    with pytest.raises(AssertionError, match="stdout holds no JSON document"):
        _ = again.json


def test_a_run_without_a_named_folder(tiny_project: Project) -> None:
    outcome = tiny_project.run("run", "tiny.yaml").assert_finished()
    assert outcome.run_folder.parent == tiny_project.folder / "runs"
    assert Path.cwd() != tiny_project.folder


def test_what_is_refused(tiny_project: Project) -> None:
    outcome = tiny_project.run("run", "tiny.yaml", "--set", "train.learning_rat=1")
    outcome.assert_refused(error="unknown key 'learning_rat'", hint="learning_rate")
    with pytest.raises(AssertionError, match="expected error 'something else'"):
        outcome.assert_refused(error="something else")
    with pytest.raises(AssertionError, match="ended with status 2, not 0"):
        outcome.assert_finished()
    with pytest.raises(AssertionError, match="ended with status 0, not 2"):
        tiny_project.run("tasks").assert_refused()


def test_help_is_an_outcome_too(project: Project) -> None:
    outcome = project.run("plugins", "--help").assert_finished()
    assert outcome.out.startswith("usage: toolkit plugins")


def test_files_are_written_as_they_are_given(project: Project) -> None:
    assert project.write("a/b.txt", "text\n").read_text() == "text\n"
    assert project.write("c.bin", b"\0\1").read_bytes() == b"\0\1"
    assert (
        project.write("rows.jsonl", [{"ids": [1]}, {"ids": []}]).read_text() == '{"ids": [1]}\n{"ids": []}\n'
    )


def test_the_fixture_is_there_for_other_packages(tmp_path: Path) -> None:
    """As the entry point brings it, in a process that knows nothing of these tests."""
    test = tmp_path / "test_it.py"
    test.write_text("def test_it(project):\n    project.run('tasks').assert_finished()\n")
    kit = [
        "-p",
        "no:toolkit",
        "-p",
        "toolkit.testing.pytest_plugin",
    ]  # once, whether or not the entry point is there
    command = [sys.executable, "-m", "pytest", "-q", *kit, "-c", "/dev/null"]
    done = subprocess.run([*command, str(test)], capture_output=True, text=True, cwd=tmp_path)
    assert "1 passed" in done.stdout, done.stdout
