"""What is installed and not named does no harm; what is named and broken says whose fault it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests.conftest import Install
from tests.core import tiny
from toolkit import PluginError, Recipe, discovery, hookspecs
from toolkit.cli import main
from toolkit.plugins import Plugins

HARMFUL = {
    "raises": "raise RuntimeError('at import')",
    "leaves": "raise SystemExit(3)",
    "is no Python": "def broken(",
    "lacks a module": "import no_such_thing",
    "is slow": "import time\ntime.sleep(60)",
    "hooks are misspelt": "from toolkit import hookimpl\n@hookimpl\ndef toolkit_colator(): pass",
}
NAMED = ["--plugin", "vit", "--set", "train.max_steps=1"]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "site-packages"


def tiny_task(install: Install) -> None:
    """A task that runs in a moment, so that something can be run beside what is broken."""
    task = f"""
        "Next token numbers."
        from toolkit import Recipe
        recipe = Recipe("tiny-task", plugins=["tiny"], model="tiny", data={"rows.jsonl"!r}, train={{"max_steps": 1}})
    """
    modules = {"toolkit_tiny": tiny.PLUGIN, "tiny_task": task}
    install(
        "toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, tasks={"tiny-task": "tiny_task"}, modules=modules
    )
    rows = "\n".join(f'{{"ids": {row["ids"]}}}' for row in tiny.rows(12))
    Path("rows.jsonl").write_text(rows)


def vit(install: Install, source: str, distribution: str = "toolkit-vit", version: str = "0.3") -> None:
    module = distribution.replace("-", "_")
    offered = {"vit": module}
    install(distribution, version=version, plugins=offered, tasks=offered, modules={module: source})


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*arguments]) == 2
    return capsys.readouterr().err


# ---- not named -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", HARMFUL.values(), ids=HARMFUL)
def test_a_broken_package_that_is_not_named_affects_nothing(
    install: Install, in_tmp: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(install)
    vit(install, source)
    assert [main([command]) for command in ("tasks", "plugins")] == [0, 0]
    assert len(re.findall(r"^vit .*\(toolkit-vit 0\.3\)$", capsys.readouterr().out, re.MULTILINE)) == 2
    assert main(["check", "--task", "tiny-task"]) == 0
    assert main(["run", "--task", "tiny-task"]) == 0
    assert "toolkit_vit" not in sys.modules


def test_a_conflict_that_is_not_named_affects_nothing(install: Install, in_tmp: Path) -> None:
    tiny_task(install)
    vit(install, "")
    vit(install, "", "other-vit")
    assert main(["run", "--task", "tiny-task"]) == 0


METADATA = {
    "entry points without a value": ("entry_points.txt", b"[toolkit.plugins]\nvit\n"),
    "entry points that are no text": ("entry_points.txt", b"[toolkit.plugins]\nvit = \xff\xfe\n"),
    "metadata that is no text": ("METADATA", b"\xff\xfe"),
    "metadata without a name": ("METADATA", b"Metadata-Version: 2.1\n"),
}


@pytest.mark.parametrize(("file", "content"), METADATA.values(), ids=METADATA)
def test_broken_metadata_affects_nothing_and_is_told_where_it_matters(
    install: Install, in_tmp: Path, site: Path, file: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(install)
    vit(install, "")
    (site / "toolkit_vit-0.3.dist-info" / file).write_bytes(content)
    assert main(["tasks"]) == 0
    assert "tiny-task" in capsys.readouterr().out
    assert main(["run", "--task", "tiny-task"]) == 0
    message = error_of(capsys, "run", "--task", "tiny-task", "--output-dir", "other", *NAMED)
    assert "error: no plugin named 'vit' (installed: " in message
    assert f"the metadata in {site}/toolkit_vit-0.3.dist-info cannot be read: " in message


def test_a_package_that_has_lost_its_metadata_is_still_told(
    install: Install, in_tmp: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit(install, "")
    (site / "toolkit_vit-0.3.dist-info" / "METADATA").unlink()
    assert main(["plugins"]) == 0
    assert "toolkit_vit-0.3.dist-info cannot be read" in error_of(capsys, "run", "--task", "vit")


def test_a_copy_that_another_one_hides_offers_nothing(
    install: Install, tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vit(install, "")
    first = tmp_path / "first"
    first.mkdir()
    (site / "toolkit_vit-0.3.dist-info").rename(first / "toolkit_vit-0.3.dist-info")
    vit(install, "", version="0.2")
    monkeypatch.syspath_prepend(str(first))
    assert discovery.find("plugin", "vit").version == "0.3"


def test_a_hundred_plugins_are_listed_at_once(install: Install, site: Path) -> None:
    source = '"""Number {number}."""\nraise SystemExit("imported")\n' + "x = 1\n" * 100
    for number in range(100):
        name = f"many{number}"
        modules = {name: source.format(number=number)}
        install(name, plugins={name: name}, tasks={name: name}, modules=modules)
    path = os.pathsep.join([str(site), *sys.path])
    began = time.monotonic()
    command = [sys.executable, "-m", "toolkit", "tasks"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert time.monotonic() - began < 3
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[2] for line in done.stdout.splitlines() if line.startswith("many7 ")] == ["7."]
    assert done.stdout.count("Number ") == 100


def test_doctor_tells_what_lies_in_wait(
    install: Install, in_tmp: Path, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit(install, "")
    vit(install, "", "other-vit")
    vit(install, "", "broken-vit")
    (site / "broken_vit-0.3.dist-info" / "METADATA").write_text("")
    assert main(["doctor", "--json"]) == 1
    checks = {one["name"]: one for one in json.loads(capsys.readouterr().out)["checks"]}
    found = checks["plugins and tasks by name"]
    assert (found["ok"], checks["plugin vit"]["ok"]) == (False, True)
    assert "two packages offer a plugin named 'vit': other-vit 0.3 and toolkit-vit 0.3" in found["detail"]
    assert f"the metadata in {site}/broken_vit-0.3.dist-info cannot be read: " in found["detail"]


# ---- named ---------------------------------------------------------------------------------------------

CAUSES = {
    "raises": ("RuntimeError: at import", "repair or reinstall toolkit-vit"),
    "leaves": ("SystemExit: 3", "repair or reinstall toolkit-vit"),
    "is no Python": ("SyntaxError: '(' was never closed (toolkit_vit.py, line 1)", "repair or reinstall toolkit-vit"),
    "lacks a module": (
        "ModuleNotFoundError: No module named 'no_such_thing'",
        "install what it needs, the module 'no_such_thing', or repair or reinstall toolkit-vit",
    ),
    "hooks are misspelt": (
        "unknown hook 'toolkit_colator' (did you mean 'toolkit_collator'?)",
        "repair or reinstall toolkit-vit",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "cause", "remedy"), [(kind, *said) for kind, said in CAUSES.items()])
def test_a_broken_package_that_is_named_says_whose_fault_it_is(
    install: Install, in_tmp: Path, kind: str, cause: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(install)
    vit(install, HARMFUL[kind])
    expected = f"error: plugin 'vit' (toolkit-vit 0.3) could not be loaded\n  {cause}\nhint: {remedy}\n"
    assert error_of(capsys, "run", "--task", "tiny-task", *NAMED) == expected
    assert not Path("runs").exists()


def test_a_cause_of_many_lines_is_told_in_one_and_debug_shows_the_rest(
    install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vit(install, "raise RuntimeError('first\\nsecond')")
    message = error_of(capsys, "run", "--task", "vit")
    assert "error: task 'vit' (toolkit-vit 0.3) could not be loaded\n  RuntimeError: first\nhint: " in message
    assert "second" not in message
    assert re.search(
        r"toolkit_vit\.py.*second", error_of(capsys, "run", "--task", "vit", "--debug"), re.DOTALL
    )


@pytest.mark.parametrize("value", ["", "toolkit_gone", "toolkit_vit:gone", "no module"])
def test_an_entry_point_that_leads_nowhere(install: Install, value: str) -> None:
    install("toolkit-vit", plugins={"vit": value}, modules={"toolkit_vit": ""})
    assert [one.summary for one in discovery.installed("plugin") if one.name == "vit"] == [""]
    with pytest.raises(PluginError) as caught:
        discovery.find("plugin", "vit").load()
    assert caught.value.message.startswith("plugin 'vit' (toolkit-vit 0.1) could not be loaded\n  ")
    assert caught.value.hint == "repair or reinstall toolkit-vit"


@pytest.mark.parametrize("failing", ["recipe", "loop"])
def test_an_exception_within_a_run_says_in_which_plugin(
    install: Install, in_tmp: Path, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(install)
    change = "lambda row, generator: row['gone']" if failing == "loop" else "1 / 0"
    vit(install, f"from toolkit import hookimpl\n@hookimpl\ndef toolkit_augment(): return {change}\n")
    assert main(["run", "--task", "tiny-task", *NAMED]) == 1
    message = capsys.readouterr().err
    error = "KeyError: 'gone'" if failing == "loop" else "ZeroDivisionError: division by zero"
    assert (
        f"error: {error}\n  in plugin 'vit' (toolkit-vit 0.3): toolkit_vit, line 3\nhint: --debug" in message
    )


# ---- two of one name -----------------------------------------------------------------------------------


def settled(value: int) -> str:
    return textwrap.dedent(f"""
        "Says {value}."
        from dataclasses import dataclass
        from toolkit import Recipe, hookimpl
        recipe = Recipe("vit-{value}")
        @dataclass(frozen=True)
        class Settings:
            crop: int = {value}
        @hookimpl
        def toolkit_settings():
            return Settings
    """)


@pytest.fixture
def two(install: Install) -> None:
    vit(install, settled(1), "toolkit-vit", "1.0")
    vit(install, settled(2), "other-vit", "2.0")


@pytest.mark.usefixtures("two")
def test_two_packages_of_one_name_are_named_with_how_to_choose(
    install: Install, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_task(install)
    expected = (
        "error: two packages offer a {kind} named 'vit': other-vit 2.0 and toolkit-vit 1.0\n"
        "hint: say which: 'other-vit:vit' or 'toolkit-vit:vit'; or uninstall all but one\n"
    )
    assert error_of(capsys, "run", "--task", "vit") == expected.format(kind="task")
    assert error_of(capsys, "run", "--task", "tiny-task", *NAMED) == expected.format(kind="plugin")


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(("chosen", "value"), [("toolkit-vit", 1), ("other-vit", 2)])
def test_the_distribution_before_the_name_chooses(in_tmp: Path, chosen: str, value: int) -> None:
    assert Recipe.load(f"{chosen}:vit").name == f"vit-{value}"
    recipe = Recipe("mine", plugins=[f"{chosen}:vit"], vit={})
    recipe.dump("mine.yaml")
    plugins = Plugins(Recipe.load("mine.yaml"))
    assert [one.crop for one in plugins.recipe._settings.values()] == [value]
    assert plugins.recipe.plugins == (f"{chosen}:vit",)
    changed = plugins.with_recipe(plugins.recipe.override(vit={"crop": 7}))
    assert [one.crop for one in changed.recipe._settings.values()] == [7]


@pytest.mark.usefixtures("two")
def test_a_distribution_that_does_not_offer_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "hint: did you mean 'other-vit:vit'?" in error_of(capsys, "run", "--task", "othr-vit:vit")


def test_both_at_once_are_one_name_twice() -> None:
    with pytest.raises(Exception, match="a name stands twice"):
        Recipe("mine", plugins=["toolkit-vit:vit", "other-vit:vit"])


# ---- the version of the contract -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "reason", "remedy"),
    [
        ("4", "it is written for version 4 of the hooks, task-toolkit 0.1.0 has 2 to 3",
         "install a newer task-toolkit"),
        ("1", "it is written for version 1 of the hooks, task-toolkit 0.1.0 has 2 to 3",
         "install a newer toolkit-vit"),
        ("'3'", "toolkit_contract must be a whole number, is '3'", "the newest is 3"),
    ],
)  # fmt: skip
def test_a_plugin_for_other_hooks_is_refused(
    install: Install, wanted: str, reason: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hookspecs, "CONTRACT", 3)
    monkeypatch.setattr(hookspecs, "OLDEST_CONTRACT", 2)
    vit(
        install,
        f"from toolkit import hookimpl\ntoolkit_contract = {wanted}\n@hookimpl\ndef toolkit_new(): pass\n",
    )
    with pytest.raises(PluginError) as caught:
        Plugins(Recipe("mine", plugins=["vit"]))
    assert caught.value.message == f"plugin 'vit' (toolkit-vit 0.3) could not be loaded\n  {reason}"
    assert caught.value.hint == remedy


@pytest.mark.parametrize("said", ["toolkit_contract = 2", "toolkit_contract = 3", ""])
def test_a_plugin_for_these_hooks_or_that_says_nothing_is_taken(
    install: Install, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hookspecs, "CONTRACT", 3)
    monkeypatch.setattr(hookspecs, "OLDEST_CONTRACT", 2)
    vit(install, said)
    assert Plugins(Recipe("mine", plugins=["vit"])).loss() is None
