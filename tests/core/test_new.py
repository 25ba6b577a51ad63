"""`toolkit new`: which names it takes, where it writes, and that it writes all or nothing."""

from __future__ import annotations

import ast
import keyword
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Install
from toolkit import Recipe, RecipeError, hookspecs, scaffold
from toolkit.plugins import HOOKS
from toolkit.scaffold import TEMPLATES, check_name, new_package
from toolkit.testing import Project

KINDS = ("task", "extension")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---- what is written -----------------------------------------------------------------------------------


def test_the_command_says_what_to_do_next(project: Project) -> None:
    outcome = project.run("new", "leaf-disease").assert_finished()
    lines = [line.strip() for line in outcome.out.splitlines()]
    assert lines[-4:] == [
        "cd leaf-disease",
        "pip install --no-build-isolation -e .",
        "pytest",
        "toolkit run --task leaf-disease",
    ]
    pyproject = (project.folder / "leaf-disease" / "pyproject.toml").read_text()
    assert '[project.entry-points."toolkit.plugins"]\nleaf-disease = "toolkit_leaf_disease"\n' in pyproject
    assert '[project.entry-points."toolkit.tasks"]\nleaf-disease = "toolkit_leaf_disease.task"\n' in pyproject


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_names_all_files(project: Project, kind: str) -> None:
    arguments = ["new", "leaf", "--kind", kind, "--dir", "some/where", "--json"]
    document = project.run(*arguments).assert_finished().json
    folder = project.folder / "some" / "where" / "leaf"
    assert (document["name"], document["kind"], document["folder"]) == ("leaf", kind, "some/where/leaf")
    assert document["files"] == [path for path in everything(folder) if (folder / path).is_file()]
    assert {"README.md", "pyproject.toml", "tests/test_leaf.py", "toolkit_leaf/__init__.py"} <= {
        *document["files"]
    }
    assert everything(folder.parent)[0] == "leaf"


@pytest.mark.parametrize(
    "name", ["x", "leaf-disease", "leaf_disease_2", "my-task-2", "my-extension", "a1-b2"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_name_stands_everywhere_in_place_of_the_templates(tmp_path: Path, name: str, kind: Any) -> None:
    folder, files = new_package(name, tmp_path, kind)
    module = f"toolkit_{name.replace('-', '_')}"
    modules = [file for file in files if file.endswith(".py")]
    assert {file.split("/")[0] for file in modules} == {module, "tests"}
    text = "".join(
        [*files, *((folder / file).read_text() for file in files if file.endswith((".py", ".toml", ".md")))]
    )
    rest = re.sub(f"{name}|{name.replace('-', '_')}", "", text)
    assert not re.search(f"my[-_]{kind}", rest)
    for file in modules:
        ast.parse((folder / file).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_templates_are_written_for_the_newest_hooks(kind: str) -> None:
    source = (TEMPLATES / kind / f"toolkit_my_{kind}" / "__init__.py").read_text()
    assert f"\ntoolkit_contract = {hookspecs.CONTRACT}\n" in source
    assert set(re.findall(r"^def (toolkit_\w+)", source, re.MULTILINE)) <= set(HOOKS)


# ---- names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["", " ", "-x", "x-", "x--y", "_x", "1x", "Leaf", "leaf disease", "léaf", "x.y", "x/y", "/x", "..", "../x",
     "x\n", "x\0", "a" * 41, "x:y", "--help "],
)  # fmt: skip
def test_names_that_no_package_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="a package cannot be named"):
        new_package(name, tmp_path)
    assert everything(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "near"),
    [("Leaf", "leaf"), ("leaf disease", "leaf-disease"), ("LeafDisease", "leaf-disease"), ("x--y", "x-y")],
)
def test_a_name_that_nearly_does_is_mended(name: str, near: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_name(name)
    assert str(caught.value.hint).endswith(f"did you mean '{near}'?")


@pytest.mark.parametrize("name", ["class", "lambda", "train", "model", "extends", "adapter", "sample"])
def test_names_that_could_not_be_sections_of_a_recipe(name: str) -> None:
    with pytest.raises(RecipeError, match=f"'{name}' is a word of (Python|every recipe)"):
        check_name(name)
    assert keyword.iskeyword(name) or name == "extends" or hasattr(Recipe("x"), name)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("whisper", "plugin 'whisper' (task-toolkit 0.1.0) is installed already"),
        ("whisper-asr", "task 'whisper-asr' (task-toolkit 0.1.0) is installed already"),
        ("tasks", "a package toolkit_tasks is installed already"),
        ("vit", "a package toolkit_vit is installed already"),
    ],
)
def test_names_that_another_package_has(install: Install, name: str, owner: str) -> None:
    install("toolkit-vit")
    with pytest.raises(RecipeError) as caught:
        check_name(name)
    assert caught.value.message == owner


# ---- all or nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("there", ["folder", "file", "link"])
def test_what_is_there_is_never_touched(tmp_path: Path, there: str) -> None:
    place = tmp_path / "leaf"
    if there == "folder":
        place.mkdir()
    elif there == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    before = [(path, path.lstat().st_mtime_ns) for path in tmp_path.iterdir()]
    with pytest.raises(RecipeError, match="leaf is there already"):
        new_package("leaf", tmp_path)
    assert [(path, path.lstat().st_mtime_ns) for path in tmp_path.iterdir()] == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("parent", [".", "new/place"])
def test_nothing_is_left_of_what_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, parent: str
) -> None:
    written = 0
    write = Path.write_bytes

    def filling(path: Path, content: bytes) -> int:
        nonlocal written
        written += 1
        if written == 5:
            raise error
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", filling)
    with pytest.raises((RecipeError, KeyboardInterrupt)) as caught:
        new_package("leaf", tmp_path / parent)
    assert written == 5
    assert everything(tmp_path) == []
    if isinstance(caught.value, RecipeError):
        assert caught.value.message.endswith("leaf cannot be written: No space left on device")


def test_a_file_is_no_place_for_a_folder(project: Project) -> None:
    project.write("file", "mine")
    for place in ("file", "file/below"):
        refused = project.run("new", "leaf", "--dir", place)
        refused.assert_refused(
            f"{place}/leaf cannot be written: ", "choose a folder you may write to with --dir"
        )
    assert everything(project.folder) == ["file"]


def test_a_folder_that_appears_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = scaffold.rendered

    def late(*arguments: Any) -> Any:
        (tmp_path / "leaf").mkdir()
        (tmp_path / "leaf" / "mine.txt").write_text("mine")
        return rendered(*arguments)

    monkeypatch.setattr(scaffold, "rendered", late)
    with pytest.raises(RecipeError, match="cannot be written"):
        new_package("leaf", tmp_path)
    assert everything(tmp_path) == ["leaf", "leaf/mine.txt"]
