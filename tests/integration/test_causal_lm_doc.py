"""What docs/causal_lm.md tells a reader to type works, with the sample's model and chats in place of the reader's."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import toolkit_causal_lm
from toolkit_causal_lm.rows import Chat, Completion, Text, shape_of
from toolkit_causal_lm.settings import CausalLMSettings
from toolkit_tasks.causal_lm import recipe

from toolkit.cli import main

GUIDE = (Path(__file__).parents[2] / "docs" / "causal_lm.md").read_text()
SAMPLE = Path(recipe.sample["model"]).parent  # type: ignore[index]
QUICK = ["train.max_steps=2", "train.gradient_accumulation_steps=1", "eval.max_samples=2", "data.limit=12"]
QUICK += ["train.eval_strategy=no", "eval.before=false"]


def blocks(language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [block for its, block in found if its == language]


def stand_in(text: str) -> str:
    return text.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(SAMPLE / "model"))


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
    """Where the reader works: chats, other chats, `mine.yaml`, and the first run."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(SAMPLE / "data", folder / "my_chats")
    (folder / "other_chats").mkdir()
    shutil.copy(SAMPLE / "data" / "validation.jsonl", folder / "other_chats" / "test.jsonl")
    [yaml] = blocks("yaml")
    (folder / "mine.yaml").write_text(stand_in(yaml))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [first] = typed("run", "runs/mine")
        carry_out([*first, "--set", "train.learning_rate=5e-3"])
        yield folder


@pytest.mark.parametrize("command", typed("run", "mine.yaml"), ids=lambda command: command[-1])
def test_each_run_does_what_it_is_there_for(desk: Path, command: list[str]) -> None:
    carry_out(command)
    saved = {path.name for path in (desk / command[-1] / "model").iterdir()}
    assert ("model.safetensors" if command[-1] == "runs/full" else "adapter_model.safetensors") in saved
    after = json.loads((desk / command[-1] / "summary.json").read_text())["after"]
    assert ("exact_match" in after) == (command[-1] == "runs/exact")


def test_the_first_row_is_shown_as_the_page_has_it(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [check] = typed("check")
    assert main([*check, "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["first_row"]
    [shown] = [block for block in blocks() if block.startswith("<|im_start|>")]
    shape = (
        r"<\|im_start\|>user\\n.*<\|im_end\|>\\n<\|im_start\|>assistant\\n(\[[^\]]+\])+\[<\|im_end\|>\]\\n"
    )
    assert re.fullmatch(shape, shown.strip())
    assert re.search(shape, first)


def test_the_run_is_used_measured_and_exported(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rest = [command for command in commands() if command[0] not in ("run", "check")]
    assert {command[0] for command in rest} == {"predict", "eval", "export"}
    for command in rest:
        carry_out(command)
    said = capsys.readouterr().out
    assert "What colour is snow?: " in said
    assert "compared on 2 test rows" in said
    assert (desk / "exported/adapter/adapter_config.json").is_file()
    assert not (desk / "exported/merged/adapter_config.json").exists()
    carry_out(["predict", "runs/mine", "What colour is snow?"])
    ours = capsys.readouterr().out.strip().removeprefix("What colour is snow?: ")
    for program in blocks("python")[:2]:
        assert "toolkit" not in program
        exec(compile(stand_in(program), "causal_lm.md", "exec"), {})
        assert capsys.readouterr().out.strip() == ours


def test_the_same_from_python(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = stand_in(blocks("python")[2])
    assert '{"max_new_tokens": 8}})' in program
    program = program.replace(
        '{"max_new_tokens": 8}})', '{"max_new_tokens": 8}}, train={"max_steps": 2, "eval_strategy": "no"})'
    )
    exec(compile(program, "causal_lm.md", "exec"), {})
    rates, texts = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"[\d.]+ -> [\d.]+", rates)
    assert len(ast.literal_eval(texts)) == 1


def test_the_rows_are_of_the_three_shapes() -> None:
    [rows] = blocks("json")
    shapes = [type(shape_of(json.loads(line))) for line in rows.splitlines()]
    assert shapes == [Chat, Completion, Text]


def test_the_columns_are_those_that_are_recognised() -> None:
    [line] = re.findall(r"- \*\*Columns\*\*: (.*?)Map any other", GUIDE, re.DOTALL)
    known = [name for column in toolkit_causal_lm.toolkit_columns() for name in (column.name, *column.usual)]
    assert re.findall(r"`(\w+)`", line) == [name for name in known if name != "input"]


def test_every_key_is_in_the_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", GUIDE, re.MULTILINE)
    fields = dataclasses.fields(CausalLMSettings)
    defaults = [str(field.default).replace("None", "null").replace("False", "false") for field in fields]
    assert rows == list(zip([field.name for field in fields], defaults, strict=True))
