"""Every error that is raised says what to do."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for top in ("toolkit", "plugins") for path in sorted((ROOT / top).rglob("*.py"))]
ERRORS = ("RecipeError", "DataError", "ModelError", "PluginError", "CheckpointError")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_error_has_a_hint(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in ERRORS]
    bare = [
        call.lineno
        for call in made
        if len(call.args) < 2 and "hint" not in [one.arg for one in call.keywords]
    ]
    assert bare == []
