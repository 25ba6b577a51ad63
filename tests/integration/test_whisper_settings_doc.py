"""What docs/whisper-settings.md says is so."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
from toolkit_tasks.whisper_asr import recipe
from toolkit_whisper.settings import WhisperSettings

from toolkit import Recipe
from toolkit.cli import main
from toolkit.plugins import Plugins

PAGE = (Path(__file__).parents[2] / "docs" / "whisper-settings.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [body for kind, body in found if kind == language]


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", PAGE, re.MULTILINE)
    fields = dataclasses.fields(WhisperSettings)
    defaults = [str(field.default).replace("None", "null") for field in fields]
    assert rows == list(zip([field.name for field in fields], defaults, strict=True))


@pytest.mark.parametrize("block", blocks("yaml"))
def test_recipes_on_the_page_are_recipes(tmp_path: Path, block: str) -> None:
    (tmp_path / "mine.yaml").write_text(block)
    Plugins(Recipe.load(tmp_path / "mine.yaml")).check()


@pytest.mark.parametrize("table", blocks(""))
def test_the_tables_on_the_page_are_read(in_tmp: Path, table: str) -> None:
    """With two of the sample's clips in place of the talks, both in English, which is all its model knows."""
    header, *rows = csv.reader(table.splitlines())
    for row, clip in zip(rows, sorted((SAMPLE / "data" / "test").glob("*.flac")), strict=False):
        Path(row[0]).write_bytes(clip.read_bytes())
        row[2:] = ["en-GB"] if header[2:] == ["language"] else [str(float(time) / 4) for time in row[2:]]
    with Path("metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    command = ["run", "--task", "whisper-asr", "--model", str(SAMPLE / "model"), "--data", "."]
    for one in ("train.max_steps=1", "train.eval_strategy=no", "whisper.max_new_tokens=4"):
        command += ["--set", one]
    assert main([*command, "--output-dir", "run"]) == 0
    used = json.loads(Path("run/summary.json").read_text())["rows"]
    assert used == {"train": 1, "validation": 1, "test": 0, "quarantined": 0}
