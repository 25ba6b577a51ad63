from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Install
from toolkit.cli import COMMANDS, main


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["rum"], "there is no command 'rum'", "did you mean 'run'?"),
        (["run"], "no task and no recipe file given", "give one: --task NAME"),
        (["run", "a.yaml", "--task", "b"], "both a task and a recipe file given", "give one"),
        (["run", "--task", "whisper-asrr"], "no task named 'whisper-asrr'", "did you mean 'whisper-asr'?"),
        (["run", "--tusk", "x"], "unrecognized arguments: --tusk", "`toolkit run --help` shows the options"),
        (["run", "gone.yaml"], "gone.yaml: cannot be read: No such file", "give a recipe file"),
        (
            ["run", "--task", "whisper-asr", "--set", "train"],
            "--set train: expected KEY=VALUE",
            "for example",
        ),
        (
            ["run", "--task", "whisper-asr", "--set", "a..b=1"],
            "--set a..b=1: expected KEY=VALUE",
            "for example",
        ),
        (
            ["run", "--task", "whisper-asr", "--set", "trian.x=1"],
            "recipe: unknown key 'trian'",
            "did you mean 'train'?",
        ),
        (["run", "--task", "whisper-asr", "--set", "data.limit=x"], "data.limit: input should be", None),
        (["run", "--task", "whisper-asr", "--set", "model=[1"], "--set model, line 1", "write YAML"),
        (
            ["run", "--task", "whisper-asr", "--plugin", "wisper"],
            "no plugin named 'wisper'",
            "did you mean 'whisper'?",
        ),
        (
            ["run", "--task", "whisper-asr", "--resume"],
            "nothing to resume: no folder was named",
            "--output-dir",
        ),
        (["resume", "gone"], "gone does not exist", "name the folder of a run"),
        (["eval", "."], ". is no run: it holds no recipe.yaml", "name the folder"),
        (["predict", "gone", "a.wav"], "gone does not exist", "name the folder"),
        (["predict", "gone"], "the following arguments are required: INPUT", "`toolkit predict --help`"),
    ],
)
def test_wrong_input(
    arguments: list[str], error: str, hint: str | None, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = outcome(capsys, *arguments)
    assert status == 2
    assert out == ""
    assert err.startswith(f"error: {error}")
    assert "Traceback" not in err
    if hint is not None:
        assert f"\nhint: {hint}" in err
    assert list(in_tmp.iterdir()) == []


def test_errors_as_json(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = outcome(capsys, "resume", "gone", "--json")
    assert status == 2
    assert json.loads(out)["errors"][0]["message"] == "gone does not exist"
    assert err.startswith("error: gone does not exist")


def test_a_traceback_only_when_asked_for(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Traceback" in outcome(capsys, "resume", "gone", "--debug")[2]


def test_without_a_command_there_is_an_overview(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = outcome(capsys)
    assert status == 0
    for name, summary in COMMANDS.items():
        assert f"  {name}" in out
        assert summary in out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: toolkit {command}" in out
    assert "--json" in out


def test_listings(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(
        "toolkit-vit", version="1.2", plugins={"vit": "toolkit_vit"}, modules={"toolkit_vit": '"""Images."""'}
    )
    listed = json.loads(outcome(capsys, "plugins", "--json")[1])
    assert {"name": "vit", "distribution": "toolkit-vit", "version": "1.2", "summary": "Images."} in listed
    assert {one["name"] for one in listed} >= {"vit", "whisper"}
    _, out, _ = outcome(capsys, "tasks")
    assert "whisper-asr  Speech recognition: fine-tune a Whisper on recordings and their transcripts." in out


def test_text_from_outside_cannot_steer_the_terminal(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = outcome(capsys, "resume", "gone\x1b[31m")
    assert "\x1b" not in err
    assert "gone\\x1b[31m does not exist" in err


def test_an_error_of_our_own_is_no_traceback(
    install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        from toolkit import hookimpl

        @hookimpl
        def toolkit_check(recipe):
            raise KeyError("lost")
    """
    install("toolkit-odd", plugins={"odd": "toolkit_odd"}, modules={"toolkit_odd": source})
    (in_tmp / "odd.yaml").write_text("plugins: [odd]\nmodel: m\ndata: d\n")
    status, _, err = outcome(capsys, "run", "odd.yaml")
    assert status == 1
    assert err.splitlines()[-2:] == ["error: KeyError: 'lost'", "hint: --debug shows where it happened"]
