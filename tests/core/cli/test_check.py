from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Install
from tests.core.tiny import rows
from toolkit import Recipe
from toolkit.cli import main


@pytest.fixture
def recipe_file(tiny_recipe: Recipe, in_tmp: Path) -> Path:
    Path("data").mkdir()
    for split, count in (("train", 20), ("test", 6)):
        lines = [json.dumps({"tokens": row["ids"]}) for row in rows(count, seed=count)]
        Path(f"data/{split}.jsonl").write_text("\n".join(lines) + "\n")
    tiny_recipe.override(data="data").dump("tiny.yaml")
    return Path("tiny.yaml")


def outcome(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["check", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_what_it_prints(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = outcome(
        capsys, "tiny.yaml", "--dry-run", "--set", "train.num_train_epochs=2",
        "--set", "data.validation_fraction=0",
    )  # fmt: skip
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "columns    ids = tokens"
    assert lines[1] == "rows       train 20, test 6; all looked at, 0 cannot be used"
    assert lines[2].startswith("first row  ids: [")
    assert "metrics     loss, accuracy" in lines
    assert "parameters  5,712 of 5,712 train (100.00 %)" in lines
    assert "steps       10, 5 an epoch, 4 rows each, the first 0 to warm up" in lines
    assert any(line.startswith("dry run     ") for line in lines)
    assert any(", saved and loaded again " in line for line in lines)
    assert lines[-1] == "nothing wrong was found"
    assert "error:" not in err
    assert sorted(path.name for path in Path().iterdir()) == ["data", "tiny.yaml"]


def test_the_match_table(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = "adapter={target_modules: [q_proj, layers.1.mlp.up_proj, q_prj]}"
    status, out, err = outcome(capsys, "tiny.yaml", "--set", adapter)
    assert status == 2
    assert "target_modules        matched  such as" in out.splitlines()
    assert "layers.1.mlp.up_proj  1        model.layers.1.mlp.up_proj" in out.splitlines()
    assert "q_prj                 0" in out.splitlines()
    assert out.splitlines()[-1] == "1 fault, see above"
    assert err.splitlines()[-2:] == [
        "error: adapter.target_modules: 'q_prj' matched no module of LlamaForCausalLM",
        "hint: nearest names: q_proj",
    ]


def test_faults_as_a_document(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = outcome(
        capsys, "tiny.yaml", "--json", "--set", "data.limt=3", "--set", "tran.seed=1", "--set", "train.bf=1",
        "--data", "gone.csv",
    )  # fmt: skip
    assert status == 2
    document = json.loads(out)
    assert document["ok"] is False
    assert [fault["message"] for fault in document["faults"]] == [
        "data.limt: unknown key 'limt'",
        "recipe: unknown key 'tran'",
        "train.bf: unknown key 'bf'",
        "data.source: gone.csv does not exist",
    ]
    assert document["faults"][0]["hint"] == "did you mean 'limit'?"
    assert err.count("error: ") == 4
    assert document["parameters"]["total"] == 5712


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "no task and no recipe file given"),
        (["tiny.yaml", "--task", "tiny"], "both a task, tiny, and a recipe file, tiny.yaml, given"),
        (["gone.yaml"], "gone.yaml: cannot be read: No such file or directory"),
        (["--task", "gone"], "no task named 'gone'"),
        (["tiny.yaml", "--plugin", "gone"], "no plugin named 'gone'"),
        (["tiny.yaml", "--set", "x"], "--set x: expected KEY=VALUE"),
        (["broken.yaml"], "broken.yaml, line 1"),
    ],
)
def test_wrong_inputs(
    recipe_file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    Path("broken.yaml").write_text("a: [")
    status, out, err = outcome(capsys, *arguments, "--json")
    assert status == 2
    [fault] = json.loads(out)["faults"]
    assert fault["message"].startswith(error)
    assert err.splitlines()[0] == f"error: {fault['message']}".splitlines()[0]


def test_what_was_found_is_told_when_something_breaks(
    recipe_file: Path, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        from toolkit import hookimpl

        @hookimpl
        def toolkit_inspect():
            return lambda row: row["no such key"]
    """
    install("toolkit-odd", plugins={"odd": "toolkit_odd"}, modules={"toolkit_odd": source})
    status, out, err = outcome(capsys, "tiny.yaml", "--plugin", "odd", "--set", "train.bf=1")
    assert (status, out) == (1, "")
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: train.bf: unknown key 'bf'",
        "error: KeyError: 'no such key'",
    ]


def test_run_tells_the_faults_of_all_changes(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--set", "data.limt=3", "--set", "tran.seed=1"]
    assert main(["run", "tiny.yaml", "--output-dir", "first", *changes]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
    assert not Path("first").exists()


def test_run_tells_the_faults_of_the_file_together_with_those_of_its_values(
    recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "extends: tiny.yaml\ndata: {limt: 3}\ntrain: {bf: 1}\neval: {early_stopping_patience: 0}\n"
    Path("wrong.yaml").write_text(text)
    assert main(["run", "wrong.yaml", "--output-dir", "first", "--set", "tran.seed=1"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: data.limt: unknown key 'limt'",
        "error: recipe: unknown key 'tran'",
        "error: eval.early_stopping_patience: expected at least 1, found 0",
        "error: train.bf: unknown key 'bf'",
    ]
    assert not Path("first").exists()
