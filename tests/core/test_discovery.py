from __future__ import annotations

import sys

import pytest

from tests.conftest import Install
from toolkit import PluginError
from toolkit.discovery import find, installed


def test_listing_reads_summaries_and_imports_nothing(install: Install) -> None:
    module = '"""Classify images.\n\nMore."""\nraise SystemExit("imported")\n'
    install("toolkit-vit", version="1.2", plugins={"vit": "toolkit_vit"}, modules={"toolkit_vit": module})
    [vit] = [one for one in installed("plugin") if one.name == "vit"]
    assert (vit.distribution, vit.version, vit.summary) == ("toolkit-vit", "1.2", "Classify images.")
    assert "toolkit_vit" not in sys.modules


def test_a_summary_inside_a_package_imports_no_parent(install: Install) -> None:
    modules = {"vit_tasks.__init__": 'raise SystemExit("imported")', "vit_tasks.one": '"""The first."""'}
    install("vit-tasks", tasks={"vit-one": "vit_tasks.one"}, modules=modules)
    assert [one.summary for one in installed("task") if one.name == "vit-one"] == ["The first."]


@pytest.mark.parametrize("source", ["", "x = 1", "def broken(", '"""   """'])
def test_without_a_docstring_the_summary_is_empty(install: Install, source: str) -> None:
    install("toolkit-vit", plugins={"vit": "toolkit_vit"}, modules={"toolkit_vit": source})
    assert [one.summary for one in installed("plugin") if one.name == "vit"] == [""]


def test_a_missing_module_has_no_summary(install: Install) -> None:
    install("toolkit-vit", plugins={"vit": "toolkit_gone", "deep": "toolkit_gone.deep"})
    assert {one.summary for one in installed("plugin") if one.name in ("vit", "deep")} == {""}


def test_unknown_names_get_a_suggestion(install: Install) -> None:
    install("vit-tasks", tasks={"vit-classify": "vit_tasks"})
    with pytest.raises(PluginError) as caught:
        find("task", "vit-clasify")
    assert caught.value.message.startswith("no task named 'vit-clasify' (installed: ")
    assert caught.value.hint == "did you mean 'vit-classify'?"


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    install("toolkit-vit", version="1.0", plugins={"vit": "toolkit_vit"})
    install("other-vit", version="2.0", plugins={"vit": "other_vit"})
    with pytest.raises(PluginError) as caught:
        find("plugin", "vit")
    assert (
        caught.value.message == "two packages offer a plugin named 'vit': other-vit 2.0 and toolkit-vit 1.0"
    )


def test_a_package_that_fails_to_import_is_named_with_the_cause(install: Install) -> None:
    install(
        "toolkit-vit",
        version="0.3",
        plugins={"vit": "toolkit_vit"},
        modules={"toolkit_vit": "import no_such_thing"},
    )
    with pytest.raises(PluginError) as caught:
        find("plugin", "vit").load()
    assert caught.value.message == (
        "plugin 'vit' (toolkit-vit 0.3) could not be loaded\n  ModuleNotFoundError: No module named 'no_such_thing'"
    )
