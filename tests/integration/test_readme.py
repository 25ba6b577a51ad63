"""What the README tells a newcomer to type works, with the sample's model and clips in place of the user's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from toolkit_tasks import causal_lm, clip_contrastive
from toolkit_tasks.whisper_asr import recipe

from toolkit.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
CHATS = Path(causal_lm.recipe.sample["model"]).parent  # type: ignore[index]
PICTURES = Path(clip_contrastive.recipe.sample["model"]).parent  # type: ignore[index]
MODELS = {
    "openai/whisper-small": SAMPLE / "model",
    "HuggingFaceTB/SmolLM2-135M-Instruct": CHATS / "model",
    "openai/clip-vit-base-patch32": PICTURES / "model",
}
QUICK = ["--set", "train.max_steps=2", "--set", "eval.max_samples=4"]


@pytest.fixture
def recordings(in_tmp: Path) -> Path:
    """A user's folder without splits, and an interview to transcribe."""
    folder = in_tmp / "my_recordings"
    shutil.copytree(SAMPLE / "data" / "validation", folder)
    clip = next(path for path in sorted(folder.iterdir()) if path.suffix != ".csv")
    shutil.copy(clip, in_tmp / "interview.wav")
    return folder


def blocks(language: str = "") -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for kind, text in fenced if kind == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks() for line in block.splitlines() if line.startswith("toolkit ")]
    return [shlex.split(line) for line in lines]


def stand_in(arguments: list[str]) -> list[str]:
    """The samples in place of the hub's models."""
    kept = [str(MODELS.get(one, one)) for one in arguments]
    return kept + (QUICK if arguments[0] == "run" else [])


def test_your_own_recordings(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [command[1:] for command in commands() if "runs/mine" in command]
    assert [one[0] for one in typed] == ["run", "predict"]
    for arguments in typed:
        assert main(stand_in(arguments)) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.splitlines()[-1].startswith("interview.wav: ")


def test_text_and_pictures(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(CHATS / "data" / "test.jsonl", "chats.jsonl")
    shutil.copytree(PICTURES / "data" / "test", "my_pictures")
    others = [command[1:] for command in commands() if "runs/mine" not in command]
    assert [one[2] for one in others] == ["causal-lm", "clip-contrastive"]
    for arguments in others:
        assert main(stand_in(arguments)) == 0, capsys.readouterr().err


def test_the_same_from_python(recordings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [program] = blocks("python")
    program = program.replace("openai/whisper-small", str(SAMPLE / "model"))
    program = program.replace('whisper={"language": "en"}', 'train={"max_steps": 2}')
    exec(compile(program, "README.md", "exec"), {})
    assert re.match(r"[\d.]+ -> [\d.]+\n\[.*\]", capsys.readouterr().out)


def test_each_option_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    known = capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z-]+)", README)):
        assert option in known or option in ("--help", "--json")


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (ROOT / name).exists()
    tree = next(block for block in blocks() if block.startswith("toolkit/ "))
    for line in tree.splitlines():
        *names, _ = re.split(r" {2,}", line.strip())
        folder = ROOT / "toolkit" if line.startswith(" ") else ROOT
        assert names, line
        assert [name for name in names if not (folder / name).exists()] == []
