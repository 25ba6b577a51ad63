"""What `toolkit new` writes trains as it stands, beside what the toolkit ships; its own tests pass."""

from __future__ import annotations

import doctest
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Install
from tests.integration.conftest import Environment
from toolkit.discovery import find
from toolkit.scaffold import Template, new_package
from toolkit.testing import Project

Put = Callable[[Path], None]


@pytest.fixture
def put(install: Install, monkeypatch: pytest.MonkeyPatch) -> Iterator[Put]:
    """A package on the path, with the entry points that its pyproject.toml declares."""
    before = set(sys.modules)

    def on_the_path(folder: Path) -> None:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        plugins, tasks = (project["entry-points"][f"toolkit.{kind}"] for kind in ("plugins", "tasks"))
        install(project["name"], version=project["version"], plugins=plugins, tasks=tasks)
        monkeypatch.syspath_prepend(str(folder))

    yield on_the_path
    for name in set(sys.modules) - before:
        if name.startswith(("toolkit_leaf", "toolkit_field")):
            del sys.modules[name]


def test_a_new_task_learns_and_is_used(project: Project, put: Put) -> None:
    folder, _ = new_package("leaf-disease", project.folder)
    put(folder)
    assert find("task", "leaf-disease").summary.startswith("Image classification: ")
    assert project.run("check", "--task", "leaf-disease").assert_finished().err == ""
    run = project.run("run", "--task", "leaf-disease", "--output-dir", "first").assert_finished()
    assert run.summary["before"]["accuracy"] < 0.5 < 0.8 < run.summary["after"]["accuracy"]

    assert doctest.testmod(sys.modules["toolkit_leaf_disease.parts"]) == (0, 3)
    image = folder / "toolkit_leaf_disease" / "sample" / "data" / "test" / "down_1.png"
    predicted = project.run("predict", "first", image, "--json").assert_finished().json
    assert predicted["predictions"] == [{"input": str(image), "output": "down"}]
    adapter = "adapter={r: 4, target_modules: all-linear, modules_to_save: [classifier]}"
    adapted = ["run", "--task", "leaf-disease", "--set", adapter, "--output-dir", "second",
               "--set", "train.max_steps=40", "--set", "eval.before=false"]  # fmt: skip
    assert project.run(*adapted).assert_finished().summary["after"]["accuracy"] > 0.5
    assert project.run("eval", "second", "--json").json["metrics"]["accuracy"] > 0.5


def test_a_new_extension_adds_to_another_task(project: Project, put: Put) -> None:
    folder, _ = new_package("field-notes", project.folder, "extension")
    put(folder)
    quick = ["--set", "train.max_steps=1", "--set", "eval.max_samples=4", "--set", "data.limit=8"]
    arguments = [
        "--task",
        "clip-contrastive",
        "--plugin",
        "field-notes",
        "--output-dir",
        "runs/first",
        *quick,
    ]
    run = project.run("run", *arguments, "--set", "field-notes.ledger=mine.csv").assert_finished()
    assert run.summary["after"]["bits_per_target"] > run.summary["after"]["loss"]
    assert doctest.testmod(sys.modules["toolkit_field_notes.parts"]) == (0, 3)
    assert len((project.folder / "runs" / "mine.csv").read_text().splitlines()) == 1 + len(
        run.summary["after"]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("leaf-disease", "task"), ("field-notes", "extension")])
def test_installed_by_pip_its_own_tests_pass(
    tmp_path: Path, environment: Environment, name: str, kind: Template
) -> None:
    folder, _ = new_package(name, tmp_path, kind)
    environment.install("--editable", ".", cwd=folder)
    environment.run("pytest", "-q", cwd=folder)
    listed = environment.run("toolkit", "plugins", "--json", cwd=folder)
    assert f'"distribution": "toolkit-{name}"' in listed
