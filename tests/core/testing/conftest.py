from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Install
from tests.core.tiny import rows
from toolkit import Recipe

PLUGINS = Path(__file__).parents[2] / "data" / "broken_plugins"
SOUND = "toolkit_sound"


@pytest.fixture
def sample_of(install: Install, tmp_path: Path) -> Callable[[str], Recipe]:
    """Installs one of the plugins in `tests/data/broken_plugins`; gives a small recipe that names it."""

    def put(stem: str) -> Recipe:
        sources = {name: (PLUGINS / f"{name}.py").read_text() for name in (SOUND, stem)}
        install("toolkit-broken", plugins={"broken": stem}, modules=sources)
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(14)))
        train = {"learning_rate": 1e-2, "seed": 3}
        return Recipe(name="small", plugins=["broken"], model="tiny", data=str(data), train=train)

    return put
