"""What docs/clip.md and docs/clip-settings.md say works, with the sample in place of the reader's model and data."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toolkit_clip
from toolkit_clip.settings import ClipSettings
from toolkit_tasks.clip_contrastive import recipe

from toolkit import Recipe, load_run
from toolkit.cli import main
from toolkit.plugins import Plugins

DOCS = Path(__file__).parents[2] / "docs"
GUIDE, SETTINGS = ((DOCS / name).read_text() for name in ("clip.md", "clip-settings.md"))
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
MODEL = str(SAMPLE / "model")
QUICK = ["train.max_steps=2", "train.per_device_train_batch_size=16", "clip.micro_batch_size=4"]
QUICK += ["eval.max_samples=4", "data.limit=24"]


def blocks(page: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def stand_in(text: str) -> str:
    return text.replace("openai/clip-vit-base-patch32", MODEL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks(GUIDE) for line in block.splitlines() if line.startswith("toolkit ")]
    return [shlex.split(stand_in(line))[1:] for line in lines]


def carry_out(command: list[str]) -> None:
    quick = [part for one in QUICK for part in ("--set", one)] if command[0] == "run" else []
    assert main(command + quick) == 0, command


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the reader works: two folders of pictures, two pictures, `mine.yaml`, and the first run."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLE / "data" / "validation", folder / "my_pictures")
    shutil.copytree(SAMPLE / "data" / "test", folder / "other_pictures")
    first, second, *_ = sorted((folder / "my_pictures").glob("*.png"))
    shutil.copy(first, folder / "beach.jpg")
    shutil.copy(second, folder / "cat.png")
    [yaml] = blocks(GUIDE, "yaml")
    (folder / "mine.yaml").write_text(stand_in(yaml))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [command] = [one for one in commands() if one[-1] == "runs/mine" and one[0] == "run"]
        carry_out(command)
        yield folder


RUNS = [command for command in commands() if command[:2] == ["run", "mine.yaml"]]


@pytest.mark.parametrize("command", RUNS, ids=lambda command: command[-1])
def test_each_run_does_what_it_is_there_for(desk: Path, command: list[str]) -> None:
    carry_out(command)
    folder = desk / command[-1]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
    whole = {"runs/full", "runs/text", "runs/projections"}
    saved = {path.name for path in (folder / "model").iterdir()}
    assert ("model.safetensors" if command[-1] in whole else "adapter_model.safetensors") in saved
    if command[-1] == "runs/vision":
        names = json.loads((folder / "model/adapter_config.json").read_text())["target_modules"]
        assert len(names) == 8
        assert all(name.startswith("vision_model.") for name in names)


def test_the_run_is_checked_resumed_used_measured_and_exported(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [command for command in commands() if command[0] != "run"]
    assert {command[0] for command in rest} == {"check", "resume", "predict", "eval", "export"}
    for command in rest:
        carry_out(command)
    said = capsys.readouterr().out
    assert "beach.jpg:" in said
    assert "\ntest: 4 rows" in said, "of the other pictures, as many as QUICK allows"
    assert "nothing wrong was found" in said
    assert (desk / "exported/adapter/adapter_config.json").is_file()
    assert (desk / "exported/merged/model.safetensors").is_file()
    with_peft, in_python = blocks(GUIDE, "python")
    assert "toolkit" not in with_peft
    exec(compile(stand_in(with_peft), "clip.md", "exec"), {})
    scores = json.loads(capsys.readouterr().out)
    ours = load_run("runs/mine").predict(["beach.jpg", "a dog on the beach", "a cat asleep"])[0]
    assert sorted(scores, reverse=True) == pytest.approx([one["score"] for one in ours], abs=2e-3)
    quick = in_python.replace('clip={"micro', 'train={"max_steps": 2}, clip={"micro')
    exec(compile(stand_in(quick), "clip.md", "exec"), {})
    recalls, best = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d.]+ -> [\d.]+", recalls)
    assert best in ("a dog on the beach", "a cat asleep")


def test_the_columns_are_those_that_are_recognised() -> None:
    [line] = re.findall(r"- \*\*Columns\*\*: (.*?)- \*\*Splits", GUIDE, re.DOTALL)
    named = [one for one in re.findall(r"`(\w+)`", line) if one != "zero_shot_accuracy"]
    known = [[column.name, *column.usual] for column in toolkit_clip.toolkit_columns()]
    assert named == [name for names in known for name in names]


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", SETTINGS, re.MULTILINE)
    fields = dataclasses.fields(ClipSettings)
    defaults = [str(field.default).replace("None", "null") for field in fields]
    assert rows == list(zip([field.name for field in fields], defaults, strict=True))


@pytest.mark.parametrize("block", blocks(SETTINGS, "yaml"))
def test_recipes_on_the_page_are_recipes(tmp_path: Path, block: str) -> None:
    (tmp_path / "mine.yaml").write_text(block)
    Plugins(Recipe.load(tmp_path / "mine.yaml")).check()


def test_rows_of_one_picture_are_read_as_the_page_has_them(desk: Path) -> None:
    with (desk / "my_pictures/metadata.csv").open() as file:
        names = [row["file_name"] for row in csv.DictReader(file)]
    assert len(names) > len(set(names))
