"""What docs/cache.md says is so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from toolkit.recipe import CacheSpec, Recipe

PAGE = (Path(__file__).parents[2] / "docs" / "cache.md").read_text()


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `cache\.(\w+)` \| (\S+) \|", PAGE, re.MULTILINE)
    defaults = {field.name: str(field.default) for field in dataclasses.fields(CacheSpec)}
    written = {"True": "true", "None": "null"}
    assert rows == [(name, written.get(value, value)) for name, value in defaults.items()]


BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_plugins_on_the_page_are_some(tmp_path: Path) -> None:
    from types import SimpleNamespace

    import torch

    stages, rows = BLOCKS
    names: dict[str, object] = {"digest": str, "spectrum": lambda audio: {"spectrum": torch.ones(audio)}}
    exec(rows, names)
    prepare = names["toolkit_prepare"](Recipe(name="x", plugins=[], cache={"dir": str(tmp_path)}), None)  # type: ignore[operator]
    assert prepare({"audio": 3})["spectrum"].tolist() == [1, 1, 1]
    exec(stages, names)
    model = SimpleNamespace(vit="the tower")
    (stage,) = names["toolkit_frozen_stages"](model)  # type: ignore[operator]
    assert (stage.name, stage.module, stage.outputs) == ("image encoder", "the tower", ("last_hidden_state",))
