"""What `toolkit new` writes trains as it stands, beside what the toolkit ships; its own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Install
from toolkit.discovery import find
from toolkit.scaffold import Template, new_package
from toolkit.testing import Project

ROOT = Path(__file__).parents[2]


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
    assert len((project.folder / "runs" / "mine.csv").read_text().splitlines()) == 1 + len(
        run.summary["after"]
    )


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has what this one has, and nothing of the packages written here yet."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "all.pth").write_text("\n".join(path for path in [str(ROOT), *sys.path] if Path(path).is_dir()))
    return folder / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("leaf-disease", "task"), ("field-notes", "extension")])
def test_installed_by_pip_its_own_tests_pass(tmp_path: Path, python: Path, name: str, kind: Template) -> None:
    folder, _ = new_package(name, tmp_path, kind)
    offline = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    kit = [
        "-p",
        "toolkit.testing.pytest_plugin",
    ]  # named, for this environment may be older than the entry point
    for command in (
        ["-m", "pip", "install", "--quiet", "--no-build-isolation", "-e", "."],
        ["-m", "pytest", "-q", *kit],
        ["-m", "toolkit", "plugins", "--json"],
    ):
        done = subprocess.run([python, *command], cwd=folder, env=offline, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert f'"distribution": "toolkit-{name}"' in done.stdout
