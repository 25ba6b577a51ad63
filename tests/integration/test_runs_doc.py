"""docs/runs.md names each file of a run's folder and each key of what is printed with `--json`, as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shlex
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toolkit_tasks.whisper_asr import recipe

from tests.conftest import Install
from toolkit.cli import COMMANDS, main
from toolkit.folder import RunFolder
from toolkit.study import Trial
from toolkit.testing.report import Report, Result
from toolkit.trials import Settings

PAGE = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
OPEN = ("artifacts", "packages", "reasons")
"""What is in these differs from run to run."""
DECODER = "[decoder.layers.*.self_attn.q_proj]"
QUICK = ["train.max_steps=2", "train.logging_steps=1", "train.per_device_train_batch_size=2",
         "eval.max_samples=6", f"adapter.target_modules={DECODER}"]  # fmt: skip


def section(title: str) -> str:
    found = re.search(rf"^##+ {re.escape(title)}$(.*?)(?=^##+ |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def documents(title: str) -> list[Any]:
    """The JSON of a section: a document each block, or each line of one."""
    found = []
    for block in re.findall(r"^```json\n(.*?)^```$", section(title), re.MULTILINE | re.DOTALL):
        try:
            found.append(json.loads(block))
        except ValueError:
            found += map(json.loads, block.splitlines())
    return found


def shape(value: Any) -> Any:
    """The keys of a document, and of lists those of the first entry."""
    if isinstance(value, dict):
        return {key: None if key in OPEN else shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value and isinstance(value[0], dict | list) else "list"
    return "value"


def printed(*arguments: str) -> tuple[int, Any]:
    """The exit status of a command, and its document."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        status = main([*arguments, "--json"])
    return status, json.loads(out.getvalue())


def settings(*more: str) -> list[str]:
    return [part for one in [*QUICK, *more] for part in ("--set", one)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The sample's data with a recording that is broken, and a run on it that leaves all there is to leave."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLE / "data", folder / "data")
    table = folder / "data" / "test" / "metadata.csv"
    header, *rows = table.read_text().splitlines()
    broken = ",".join({"file_name": "broken.flac"}.get(name, "nothing") for name in header.split(","))
    table.write_text("\n".join([header, broken, *rows]) + "\n")
    (table.parent / "broken.flac").write_bytes(b"no sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        more = ["data.max_bad_fraction=0.1", "train.do_predict=true", "train.report_to=tensorboard"]
        command = ["run", "--task", "whisper-asr", "--data", "data", *settings(*more)]
        status, document = printed(*command, "--output-dir", "runs/first")
        (folder / "document.json").write_text(json.dumps(document))
        assert status == 0
        yield folder


def table(title: str) -> list[list[str]]:
    """The cells of a section's tables, those of headers left out."""
    tables = re.findall(r"^\|.*\|\n\|---.*\n((?:\|.*\n)+)", section(title), re.MULTILINE)
    lines = [line for one in tables for line in one.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# ---- the folder ------------------------------------------------------------------------------------------


def test_every_file_has_its_row(desk: Path) -> None:
    named = [cells[0].strip("`").rstrip("/") for cells in table("The folder")]
    places = {name: path for name, path in vars(RunFolder(Path("x"))).items() if name != "path"}
    assert {*named} == {path.name for name, path in places.items() if name != "unfinished_model"}
    assert {*named} == {path.name for path in (desk / "runs/first").iterdir()}
    assert len(named) == len({*named})


def test_the_summary(desk: Path) -> None:
    [there] = documents("`summary.json`")
    found = read(desk / "runs/first/summary.json")
    assert shape(there) == shape(found)
    assert {*there["artifacts"]} <= {*found["artifacts"]}
    bullets = "".join(re.findall(r"^- (.*?)(?=^- |^$)", section("`summary.json`"), re.MULTILINE | re.DOTALL))
    explained = {*re.findall(r"`(\w+)`", bullets)}
    assert {*found, *found["train"]} - {"schema"} <= explained
    assert "error" in explained
    assert f"`schema` is {found['schema']}" in PAGE


def test_the_lines(desk: Path) -> None:
    folder = desk / "runs/first"
    of_training, *others = documents("`metrics.jsonl`")
    found = lines(folder / "metrics.jsonl")
    assert of_training["split"] == "train"
    for line in (of_training, *others):
        assert [*line] in [[*one] for one in found if one["split"] == line["split"]]
    files = ("samples.jsonl", "predictions.jsonl", "quarantine.jsonl")
    *there, environment = documents("The other files")
    for line, name in zip(there, files, strict=True):
        assert [*line] == [*lines(folder / name)[0]], name
    assert shape(environment) == shape(read(folder / "environment.json"))


# ---- how a run ends ------------------------------------------------------------------------------------------

TROUBLE = '''
"""Ends a run after its first step, by a signal or an error."""
import os

import signal
from transformers import TrainerCallback
from toolkit import hookimpl

class Trouble(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if os.environ.get("TROUBLE") == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif os.environ.get("TROUBLE"):
            raise RuntimeError("trouble")

@hookimpl
def toolkit_callbacks():
    return [Trouble()]
'''


def test_how_a_run_ends(in_tmp: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("toolkit-trouble", plugins={"trouble": "toolkit_trouble"}, modules={"toolkit_trouble": TROUBLE})
    quick = settings("eval.before=false", "train.eval_strategy=no", "cache.enabled=false")
    command = ["run", "--task", "whisper-asr", "--plugin", "trouble", *quick]
    *statuses, absent = [cells[0].strip("`") for cells in table("How a run ends")][:4]
    exits = [int(cells[0]) for cells in table("How a run ends")[4:]]
    assert (statuses, absent) == (["finished", "interrupted", "failed"], "no such file")
    fault, interrupted = documents("`--json`")
    monkeypatch.setenv("TROUBLE", "signal")
    status, document = printed(*command, "--output-dir", interrupted["folder"])
    assert (status, document) == (128 + signal.SIGTERM, interrupted)
    summary = read(Path(interrupted["folder"]) / "summary.json")
    assert (summary["status"], summary["error"]) == ("interrupted", "Interrupted: SIGTERM")
    monkeypatch.setenv("TROUBLE", "error")
    failed, document = printed(*command, "--output-dir", "runs/failed")
    assert shape(document) == shape(fault)
    assert read(Path("runs/failed/summary.json"))["status"] == "failed"
    monkeypatch.delenv("TROUBLE")
    done, document = printed("resume", interrupted["folder"])
    assert (document["status"], document["train"]["resumed_from"]) == ("finished", summary["train"]["steps"])
    wrong, document = printed(*command, "--set", "train.learning_rate=fast")
    assert document == fault
    assert sorted(exits) == sorted([done, wrong, 130, status, failed])


# ---- what is printed -----------------------------------------------------------------------------------------


def promised(cell: str) -> Any:
    """The document that a cell of the table stands for: keys without a value may have any."""
    [text] = re.findall(r"`([\[{].*?[\]}])`", cell)
    return json.loads(re.sub(r'("\w+")(?!:)', r"\1: null", text))


def agree(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict):
        return wanted.keys() == found.keys() and all(agree(one, found[key]) for key, one in wanted.items())
    if isinstance(wanted, list):
        return isinstance(found, list) and all(agree(wanted[0], one) for one in found)
    return True


PROMISED = {cells[0].strip("`"): cells[1] for cells in table("`--json`")}
SHOWN = re.findall(r"^### `toolkit (.*)`$", PAGE, re.MULTILINE)


def name_of(command: str) -> str:
    return command.split()[0]


def test_every_command_has_its_row() -> None:
    assert {*PROMISED} == {*COMMANDS, "plugins --check"}
    assert {*map(name_of, SHOWN)} == {*PROMISED} - {"run", "resume", "search", "plugins --check"}


@pytest.mark.parametrize("command", SHOWN)
def test_what_is_shown_is_what_is_promised(command: str) -> None:
    [document] = documents(f"`toolkit {command}`")
    assert agree(promised(PROMISED[name_of(command)]), document)


@pytest.mark.parametrize("command", SHOWN)
def test_what_is_shown_is_what_is_printed(desk: Path, command: str) -> None:
    [there] = documents(f"`toolkit {command}`")
    shutil.copy(next((desk / "data" / "test").glob("*.flac")), desk / "clip.flac")
    more = settings() if command.startswith("check") else []
    status, document = printed(*shlex.split(command), *more)
    assert status == 0
    assert shape(there) == shape(document)


def test_a_runs_document_is_its_summary(desk: Path) -> None:
    document = read(desk / "document.json")
    assert agree(promised(PROMISED["run"]), document)
    assert document.pop("folder") == "runs/first"
    assert document == read(desk / "runs/first/summary.json")
    assert printed("resume", "runs/first") == (0, {**document, "folder": "runs/first"})


def test_what_takes_long_is_promised_as_it_is() -> None:
    """The commands themselves are run in `test_search_doc.py`, and by the tests of the laws."""
    search, laws = promised(PROMISED["search"]), promised(PROMISED["plugins --check"])
    made = Settings(recipe, {}, "wer", 0, True, 1)
    assert search["search"].keys() == made.as_dict().keys()
    assert search["trials"][0].keys() == {field.name for field in dataclasses.fields(Trial)}
    report = Report("a", "b", "1", None, (Result("law", "It holds.", "passed"),))
    assert agree(laws, [report.as_dict()])
