"""A fresh environment to install packages into, without a network."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_ONLY_OURS = ("PYTHONPATH", "PYTEST_ADDOPTS")


@dataclass(frozen=True)
class Environment:
    """The interpreter of a virtual environment, and what it is used for."""

    python: Path

    def run(self, *arguments: str | Path, cwd: Path) -> str:
        """`python -m ARGUMENTS` in a folder: what it prints. It has to end well."""
        given = {key: value for key, value in os.environ.items() if key not in _ONLY_OURS}
        command = [self.python, "-m", *arguments]
        done = subprocess.run(
            command, cwd=cwd, env={**given, "PIP_NO_INDEX": "1"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def install(self, *folder: str | Path, cwd: Path) -> None:
        """A package from its folder, or from several, as `pip install` is told; what they need has to be there."""
        self.run("pip", "install", "--quiet", "--no-build-isolation", *folder, cwd=cwd)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """All that is installed where the tests run, and the toolkit as it stands here, under its present entry points."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "all.pth").write_text("\n".join(path for path in sys.path if Path(path).is_dir()))
    fresh = Environment(folder / "bin" / "python")
    fresh.install("--editable", ".", cwd=ROOT)
    return fresh
