"""The fixtures that pytest finds wherever the toolkit is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.testing.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A folder of the test's own in which the command line runs; see `toolkit.testing.Project`."""
    return Project(tmp_path / "project")
