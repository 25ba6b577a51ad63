"""The packages in `examples/`, installed from their folders into a fresh environment, are used as what is built in."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.integration.conftest import Environment

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGES = {"toolkit-audio-classify": "toolkit_audio_classify", "toolkit-extras": "toolkit_extras"}


@pytest.fixture(scope="module")
def installed(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Both are in it. They are built from copies, for building leaves files behind."""
    folder = tmp_path_factory.mktemp("examples")
    for name in PACKAGES:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("*.egg-info", "build"))
    environment.install(*(f"./{name}" for name in PACKAGES), cwd=folder)
    return environment


@pytest.mark.slow
def test_they_are_listed(installed: Environment, tmp_path: Path) -> None:
    plugins, tasks = (
        {one["name"]: one for one in json.loads(installed.run("toolkit", kind, "--json", cwd=tmp_path))}
        for kind in ("plugins", "tasks")
    )
    assert {plugins[name]["distribution"] for name in ("audio-classify", "extras")} == {*PACKAGES}
    assert tasks["audio-classify"]["distribution"] == "toolkit-audio-classify"
    assert tasks["audio-classify"]["summary"].startswith("Audio classification: ")


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_their_own_tests_pass(installed: Environment, tmp_path: Path, name: str) -> None:
    """Away from their sources, so that it is what is installed that is tested."""
    shutil.copytree(EXAMPLES / name / "tests", tmp_path / "tests")
    shutil.copy(EXAMPLES / name / "README.md", tmp_path)
    assert " passed" in installed.run("pytest", "-q", "tests", cwd=tmp_path)


@pytest.mark.slow
def test_one_is_trained_with_the_other(installed: Environment, tmp_path: Path) -> None:
    installed.run("toolkit_audio_classify.sounds", "sounds", cwd=tmp_path)
    arguments = ["--task", "audio-classify", "--plugin", "extras", "--output-dir", "first"]
    noise = ["--set", "extras.noise=sounds/train", "--set", "extras.snr_db=[10, 20]"]
    installed.run("toolkit", "run", *arguments, *noise, cwd=tmp_path)
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert summary["before"]["accuracy"] < 0.5 < 0.8 < summary["after"]["accuracy"]


@pytest.mark.parametrize("name", PACKAGES)
def test_they_stand_on_public_names_alone(name: str) -> None:
    foreign = set()
    for path in (EXAMPLES / name / PACKAGES[name]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            foreign |= {
                one for one in modules if one.startswith("toolkit") and one.split(".")[0] != PACKAGES[name]
            }
    assert foreign == {"toolkit"}
