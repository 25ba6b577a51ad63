"""docs/testing.md says what is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit import Recipe
from toolkit.testing import Project, check_plugin, examine
from toolkit.testing.docstrings import described, docstring_of
from toolkit.testing.laws import LAWS

PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_it_lists_the_laws_in_their_order() -> None:
    assert re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE) == [
        (law.name, law.sentence) for law in LAWS
    ]


def test_the_failure_it_shows_is_one(sample_of: Callable[[str], Recipe]) -> None:
    """Numbers aside, which differ in their last digits from machine to machine."""
    [failed] = examine("broken", sample_of("loss_adds_up")).failed
    shown = re.search(r"^failed .*?(?=…\n```)", PAGE, re.MULTILINE | re.DOTALL)
    assert shown
    told = "\n".join(line.removeprefix("  ") for line in failed.lines())
    assert without_numbers(told).startswith(without_numbers(shown[0]).replace("\n  ", "\n"))


def without_numbers(text: str) -> str:
    return re.sub(r"\d[\d.e-]*", "#", text)


def test_its_tests_pass(project: Project) -> None:
    """But for the contract's, which is a test of the plugin's own."""
    names: dict[str, Any] = {}
    exec(SNIPPETS[0], names)
    assert names["check_plugin"] is check_plugin
    names["test_it_trains"](project)
    names["test_a_misspelt_setting_is_refused"](project)


def test_its_docstring_is_read_as_it_says() -> None:
    names: dict[str, Any] = {}
    exec(SNIPPETS[1] + "\n    def __call__(self, rows): ...\n", names)
    found = described(docstring_of(names["Collator"]()))
    assert [(one.name, one.axes, one.dtype) for one in found.values() if not one.is_optional] == [
        ("pixel_values", ("rows", "3", "height", "width"), "float32"),
        ("labels", ("rows",), "int64"),
        ("groups", ("rows",), "int64"),
        ("captions", None, None),
    ]
    assert [one.name for one in found.values() if one.is_optional] == ["weights"]
