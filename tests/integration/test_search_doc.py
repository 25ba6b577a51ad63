"""What docs/search.md tells a reader to type works, with few steps and few trials."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from toolkit_tasks.whisper_asr import recipe

from toolkit.cli import main
from toolkit.space import parse_space
from toolkit.trials import RECORD

GUIDE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
QUICK = {"train": {"num_train_epochs": 2, "max_steps": 2}, "eval": {"max_samples": 2}, "data": {"limit": 12}}


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("toolkit ")]
    return [shlex.split(line)[1:] for line in lines]


def quick(command: list[str], trials: int) -> list[str]:
    if command[0] != "search":
        return command
    settings = [f"{top}.{key}={value}" for top, values in QUICK.items() for key, value in values.items()]
    return [*command, "--trials", str(trials), *(part for one in settings for part in ("--set", one))]


@pytest.mark.slow
def test_the_page_from_top_to_bottom(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, train, resume, more = commands()
    assert [first[0], train[0], resume[0], more[0]] == ["search", "run", "resume", "search"]
    assert main(quick(first, 1)) == 0
    [listing] = [block for block in blocks() if block.startswith("best.yaml")]
    named = {line.split()[0].rstrip("/") for line in listing.splitlines()}
    assert named == {path.name for path in Path("runs/tuned").iterdir()} - {".lock"}
    for command in (train, resume, quick(more, 2)):
        assert main(command) == 0, capsys.readouterr().err
    record = json.loads(Path("runs/tuned", RECORD).read_text())
    assert [trial["status"] for trial in record["trials"]] == ["finished", "finished"]
    shutil.copy(next((SAMPLE / "data" / "test").glob("*.flac")), "clip.wav")
    capsys.readouterr()
    from_python()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith(str(record["best"]["values"]))
    assert Path("mine.yaml").read_text() == Path("runs/tuned/best.yaml").read_text()


def from_python() -> None:
    """The program goes on with the search of the commands, since it asks for the same."""
    [program] = blocks("python")
    assert 'train={"num_train_epochs": 2}' in program
    assert "trials=8" in program
    settings = ", ".join(f"{top}={values}" for top, values in QUICK.items())
    program = program.replace('train={"num_train_epochs": 2}', settings).replace("trials=8", "trials=2")
    exec(compile(program, "search.md", "exec"), {})


def test_the_table_of_where_to_look_is_understood() -> None:
    rows = [line.split("|")[1].strip() for line in GUIDE.splitlines() if line.startswith("| `")]
    typed = [row.strip("`") for row in rows if row != "`WHERE`"]
    assert len(typed) == 6
    assert len(parse_space({f"adapter.key{place}": one for place, one in enumerate(typed)})) == 6


def test_the_example_is_the_commands() -> None:
    """Its figures are measured; its columns and its last lines are what the command prints."""
    [shown] = [block for block in blocks() if block.startswith("trial ")]
    first, *_ = commands()
    header = shown.splitlines()[0].split()
    assert header == ["trial", "train.learning_rate", "adapter.r", "wer", "s"]
    assert len(re.findall(r"^\d", shown, re.MULTILINE)) == int(first[first.index("--trials") + 1])
    best = shown.splitlines()[1].split()[0]
    assert f"\nbest: trial {best}, wer" in shown
    assert f"\nits run: runs/tuned/trials/trial-{best}\n" in shown
