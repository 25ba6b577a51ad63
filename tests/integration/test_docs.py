"""What docs/whisper.md tells a reader to type works, with the sample's model and clips in place of the reader's."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toolkit_whisper
from toolkit_tasks.whisper_asr import recipe

from toolkit.cli import main

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "whisper.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
MODEL = str(SAMPLE / "model")
QUICK = ["train.max_steps=2", "train.gradient_accumulation_steps=1", "eval.max_samples=2", "data.limit=12"]


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def stand_in(text: str) -> str:
    """An English-only sample in place of the hub's multilingual model."""
    return text.replace("openai/whisper-small", MODEL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("toolkit ")]
    return [shlex.split(stand_in(line))[1:] for line in lines]


def typed(name: str, *others: str) -> list[list[str]]:
    return [command for command in commands() if command[0] == name and {*others} <= {*command}]


def carry_out(command: list[str]) -> None:
    quick = [part for one in QUICK for part in ("--set", one)] if command[0] == "run" else []
    assert main(command + quick) == 0, command


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the reader works: recordings, others, an interview, a clip, `mine.yaml`, and the first run."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLE / "data" / "validation", folder / "my_recordings")
    shutil.copytree(SAMPLE / "data" / "test", folder / "other_recordings")
    clips = sorted((folder / "my_recordings").glob("*.flac"))
    sounds = [soundfile.read(clip)[0] for clip in clips]
    soundfile.write(folder / "interview.wav", np.concatenate(sounds[:6]), 16_000)
    soundfile.write(folder / "clip.wav", sounds[0], 16_000)
    shutil.copy(clips[1], folder / "talk.flac")
    [yaml] = blocks("yaml")
    (folder / "mine.yaml").write_text(stand_in(yaml))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [first] = typed("run", "runs/mine")
        carry_out([*first, "--set", "train.learning_rate=3e-3"])
        yield folder


@pytest.mark.parametrize("command", typed("run", "mine.yaml"), ids=lambda command: command[-1])
def test_each_run_does_what_it_is_there_for(desk: Path, command: list[str]) -> None:
    carry_out(command)
    summary = json.loads((desk / command[-1] / "summary.json").read_text())
    assert summary["status"] == "finished"
    saved = {path.name for path in (desk / command[-1] / "model").iterdir()}
    assert ("model.safetensors" if command[-1] == "runs/full" else "adapter_model.safetensors") in saved
    if command[-1] in ("runs/decoder", "runs/regex"):
        adapter = json.loads((desk / command[-1] / "model/adapter_config.json").read_text())
        assert len(adapter["target_modules"]) == 16
        assert all(".decoder." in name for name in adapter["target_modules"])


def test_the_folder_holds_what_the_page_lists(desk: Path) -> None:
    [listing] = [block for block in blocks() if block.startswith("recipe.yaml")]
    named = {line.split()[0].rstrip("/") for line in listing.splitlines()}
    assert named - {"quarantine.jsonl"} == {path.name for path in (desk / "runs/mine").iterdir()}


def test_the_run_is_resumed_used_measured_and_exported(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = [command for command in commands() if command[0] != "run"]
    assert {command[0] for command in rest} == {"resume", "predict", "eval", "export"}
    for command in rest:
        carry_out(command)
    said = capsys.readouterr().out
    assert "interview.wav: " in said
    assert "test: 2 rows" in said  # of the other recordings, as many as QUICK allows
    assert "compared on 2 validation rows" in said
    assert not {"adapter_config.json"} & {path.name for path in (desk / "exported/merged").iterdir()}
    assert (desk / "exported/adapter/adapter_config.json").is_file()
    plain(desk, capsys)


def plain(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The programs without toolkit say what toolkit says."""
    capsys.readouterr()
    carry_out(["predict", "runs/mine", "clip.wav"])
    ours = capsys.readouterr().out.strip().removeprefix("clip.wav: ")
    with_peft, merged, _ = blocks("python")
    for program in (with_peft, merged):
        assert "toolkit" not in program
        exec(compile(stand_in(program), "whisper.md", "exec"), {})
        assert capsys.readouterr().out.strip() == ours


def test_the_same_from_python(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = stand_in(blocks("python")[2])
    assert 'whisper={"language": "en"})' in program
    program = program.replace(
        'whisper={"language": "en"})', 'whisper={"language": "en"}, train={"max_steps": 2})'
    )
    exec(compile(program, "whisper.md", "exec"), {})
    rates, texts, compared = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d.]+ -> [\d.]+", rates)
    assert len(ast.literal_eval(texts)) == 1
    assert ast.literal_eval(compared)["rows"] == 4


def test_the_columns_are_those_that_are_recognised() -> None:
    [line] = re.findall(r"- \*\*Columns\*\*: (.*?)Map any other", GUIDE, re.DOTALL)
    named = re.findall(r"`(\w+)`", line)
    known = [[column.name, *column.usual] for column in toolkit_whisper.toolkit_columns() if column.required]
    assert named == known[0] + known[1]


def test_any_other_column_is_told(desk: Path) -> None:
    lines = (desk / "my_recordings/metadata.csv").read_text().splitlines()[1:]
    rows = [dict(zip(("path", "said"), line.split(",", 1), strict=True)) for line in lines]
    rows = [{**row, "path": str(desk / "my_recordings" / row["path"])} for row in rows]
    (desk / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = ["run", "--task", "whisper-asr", "--model", MODEL, "--data", "talks.jsonl"]
    carry_out([*first, "--set", "data.columns.text=said", "--output-dir", "runs/said"])
    assert json.loads((desk / "runs/said/summary.json").read_text())["rows"]["quarantined"] == 0
