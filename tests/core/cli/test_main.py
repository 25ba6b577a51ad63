from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import Install
from toolkit.cli import COMMANDS, main
from toolkit.cli.console import print_document
from toolkit.cli.run_command import show
from toolkit.notices import say


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["rum"], "there is no command 'rum'", "did you mean 'run'?"),
        (["run"], "no task and no recipe file given", "give one: --task NAME"),
        (["run", "a.yaml", "--task", "b"], "both a task, b, and a recipe file, a.yaml, given", "give one"),
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
        (["run", "--task", "whisper-asr", "--set", "self=1"], "recipe: unknown key 'self'", None),
        (["run", "--task", "whisper-asr", "--set", "name=null"], "name: expected letters, digits", None),
        (["run", "--task", "whisper-asr", "--set", "name=../x"], "name: expected letters, digits", None),
        (
            ["run", "--task", "whisper-asr", "--set", "model={[1]: 2}"],
            "--set model, line 1, column 2: key [1] is no plain value",
            "write YAML",
        ),
        (
            ["run", "--task", "whisper-asr", "--set", "adapter=&a {r: *a}"],
            "adapter: contains itself",
            None,
        ),
        (["run", "x" * 300], "no task named 'xxx", None),
        (
            ["run", "--task", "whisper-asr", "--plugin", "wisper"],
            "no plugin named 'wisper'",
            "did you mean 'whisper'?",
        ),
        (
            ["run", "--task", "whisper-asr", "--resume"],
            "nothing to resume: no folder was named",
            "name it with --output-dir",
        ),
        (["resume", "gone"], "gone does not exist", "name the folder of a run"),
        (["eval", "."], ". is no run: it holds no recipe.yaml", "name the folder"),
        (["predict", "gone", "a.wav"], "gone does not exist", "name the folder"),
        (["predict", "gone"], "the following arguments are required: INPUT", "`toolkit predict --help`"),
        (["cache", "--dir", "~nobody-here"], "~nobody-here: there is no such user", "write the path in full"),
        (["cache", "--dir", "x" * 300], f"{'x' * 300} cannot be read: File name too long", "see to its"),
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


def test_documents_are_json_whatever_is_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Passwords are masked in each text by itself, not in what JSON makes of it."""
    print_document({"https://me:pass@host": ['x?token=a"b', 1]})
    assert json.loads(capsys.readouterr().out) == {"https://***@host": ['x?token=***"b', 1]}


def test_numbers_that_json_has_none_for_are_null(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toolkit.cli import tasks_command

    scores = [{"name": "a", "score": float("nan")}, {"name": "b", "score": float("inf")}]
    monkeypatch.setattr(tasks_command, "execute", lambda options: (scores, 0))
    assert main(["tasks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "score": None}, {"name": "b", "score": None}]


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
    assert "Speech recognition: fine-tune a Whisper on recordings and their transcripts." in out


def test_text_from_outside_cannot_steer_the_terminal(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, err = outcome(capsys, "resume", "gone\x1b[31m")
    assert "\x1b" not in err
    assert "gone\\x1b[31m does not exist" in err


def test_messages_from_outside_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("odd\x1b[31m: preparing\tit")
    assert capsys.readouterr().err == "odd\\x1b[31m: preparing\tit\n"


def test_the_closing_lines_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    train = {"steps": 1, "seconds": 2.0}
    rows = {"train": 3, "validation": 0, "test": 0, "quarantined": 0}
    show({"task": "a\x1b[1m", "train": train, "rows": rows, "before": {}, "after": {}, "folder": "b\x1b[1m"})
    assert capsys.readouterr().out == (
        "\na\\x1b[1m: 3 rows, 1 steps, 2 s of training\nrun folder: b\\x1b[1m\n"
    )


def raising(install: Install, error: str) -> None:
    source = f"""
        import signal
        from toolkit import hookimpl
        from toolkit.errors import Interrupted

        @hookimpl
        def toolkit_check(recipe):
            error = {error}
            error.folder = "runs/a\\x1b[1m"
            raise error
    """
    install("toolkit-odd", plugins={"odd": "toolkit_odd"}, modules={"toolkit_odd": source})
    Path("odd.yaml").write_text("plugins: [odd]\nmodel: m\ndata: d\n")


def test_eval_says_what_it_may_set(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert "data, eval, train, cache or a plugin's section" in " ".join(capsys.readouterr().out.split())


def test_an_early_interrupt(install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raising(install, "KeyboardInterrupt()")
    status, out, err = outcome(capsys, "run", "odd.yaml", "--json")
    assert (status, err.splitlines()[-1]) == (130, "stopped")
    assert json.loads(out) == {"status": "interrupted", "folder": None}


@pytest.mark.parametrize("name", ["recipe.yaml", "search.json", None])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "typed",
    [
        "resume first",
        "run --task causal-lm --output-dir first --resume",
        "search --output-dir first --resume",
    ],
)
def test_a_signal_before_a_command_listens(
    name: str | None,
    number: int,
    typed: str,
    in_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As while libraries are imported; what there is to go on with is named."""
    Path("first").mkdir()
    if name is not None:
        Path("first", name).touch()
    for place in ("toolkit.runs.resume", "toolkit.cli.run_command.recipe_from", "toolkit.searching.is_search",
                  "toolkit.cli.search_command.recipe_from"):  # fmt: skip
        monkeypatch.setattr(place, lambda *_, **__: signal.raise_signal(number))
    status, out, err = outcome(capsys, *typed.split(), "--json")
    assert status == 128 + number
    assert json.loads(out) == {"status": "interrupted", "folder": "first" if name else None}
    assert ("toolkit resume first" if name else "nothing was begun") in err


def test_an_interrupted_run(install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raising(install, "Interrupted(signal.SIGTERM)")
    status, out, err = outcome(capsys, "run", "odd.yaml", "--json")
    assert status == 143
    assert json.loads(out) == {"status": "interrupted", "folder": "runs/a\x1b[1m"}
    assert err.endswith("interrupted by SIGTERM; go on with: toolkit resume runs/a\\x1b[1m\n")


def test_doctor_tells_of_a_peft_that_transformers_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["doctor"]) == 0
    assert "ok  model.add_adapter" in capsys.readouterr().out
    monkeypatch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", "99.0")
    status, out, _ = outcome(capsys, "doctor")
    assert status == 1
    assert "--  model.add_adapter" in out
    assert "hint: model.add_adapter: pip install --upgrade peft" in out


def test_doctor_without_what_an_extra_brings(
    monkeypatch: pytest.MonkeyPatch, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PIL", "rapidfuzz"):
        monkeypatch.setitem(sys.modules, name, None)
    status, out, _ = outcome(capsys, "doctor")
    assert status == 0  # the other plugins work
    assert [line.split()[:3] for line in out.splitlines() if line.startswith("--")] == [
        ["--", "import", "PIL"],
        ["--", "import", "rapidfuzz"],
    ]
    assert "hint: import PIL: pip install pillow" in out.splitlines()


def test_doctor_without_torch(
    monkeypatch: pytest.MonkeyPatch, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    status, out, err = outcome(capsys, "doctor")
    assert (status, err) == (1, "")
    assert out.splitlines()[0].endswith(", unknown device: torch cannot be imported")
    assert any(line.startswith("--  import torch") for line in out.splitlines())
    assert "hint: import torch: pip install torch" in out.splitlines()


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
    status, out, err = outcome(capsys, "run", "odd.yaml", "--json")
    assert status == 1
    message = "KeyError: 'lost'\n  in plugin 'odd' (toolkit-odd 0.1): toolkit_odd, line 6"
    assert json.loads(out) == {"errors": [{"message": message, "hint": "--debug shows where it happened"}]}
    assert err.endswith(f"error: {message}\nhint: --debug shows where it happened\n")
