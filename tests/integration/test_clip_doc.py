"""What docs/clip.md tells a reader to type works, with the sample's model and pictures in place of the reader's."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from toolkit_clip.settings import ClipSettings
from toolkit_tasks.clip_contrastive import recipe

from toolkit.cli import main

GUIDE = (Path(__file__).parents[2] / "docs" / "clip.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
QUICK = [
    "train.max_steps=2",
    "train.eval_strategy=no",
    "eval.before=false",
    "eval.max_samples=8",
    "data.limit=24",
]


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def stand_in(text: str) -> str:
    return text.replace("openai/clip-vit-base-patch32", str(SAMPLE / "model"))


def commands(*names: str) -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("toolkit ")]
    typed = [shlex.split(stand_in(line))[1:] for line in lines]
    return [command for command in typed if command[0] in names]


def carry_out(command: list[str]) -> None:
    quick = [part for one in QUICK for part in ("--set", one)] if command[0] == "run" else []
    assert main(command + quick) == 0, command


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the reader works: pictures, others, a cat, `mine.yaml`, and the first run."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLE / "data" / "test", folder / "my_pictures")
    shutil.copytree(SAMPLE / "data" / "validation", folder / "other_pictures")
    shutil.copy(next((SAMPLE / "data" / "test").glob("*.png")), folder / "cat.png")
    [yaml] = blocks("yaml")
    (folder / "mine.yaml").write_text(stand_in(yaml))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        carry_out(commands("run")[0])
        yield folder


@pytest.mark.parametrize("command", commands("run")[1:], ids=lambda command: command[-1])
def test_each_run_does_what_it_is_there_for(desk: Path, command: list[str]) -> None:
    carry_out(command)
    saved = {path.name for path in (desk / command[-1] / "model").iterdir()}
    whole = command[-1] in ("runs/full", "runs/projections")
    assert ("model.safetensors" if whole else "adapter_model.safetensors") in saved
    if command[-1] == "runs/tower":
        adapter = json.loads((desk / command[-1] / "model/adapter_config.json").read_text())
        assert all("vision_model" in name for name in adapter["target_modules"])


def test_the_run_is_checked_used_measured_and_exported(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in commands("check", "predict", "eval", "export"):
        carry_out(command)
    said = capsys.readouterr().out
    assert "boats in the harbour" in said
    assert (desk / "exported/merged/model.safetensors").is_file()


def test_the_same_from_python(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [program] = blocks("python")
    program = stand_in(program).replace(
        'data="my_pictures/")', 'data="my_pictures/", train={"max_steps": 2})'
    )
    exec(compile(program, "clip.md", "exec"), {})
    recalls, caption = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d.]+ -> [\d.]+", recalls)
    assert caption in ("a cat", "boats in the harbour")


def test_every_setting_is_in_the_table() -> None:
    told = dict(re.findall(r"^\| `clip\.(\w+)` \| (.*?) \|", GUIDE, re.MULTILINE))
    assert list(told) == [field.name for field in dataclasses.fields(ClipSettings)]
    for field in dataclasses.fields(ClipSettings):
        if field.default is not None and told[field.name] != "the model's own":
            assert told[field.name].strip("`") == str(field.default)
