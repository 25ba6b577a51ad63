"""All pages: programs are Python, and links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HERE = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
BELOW = [path for top in ("docs", "examples", "tasks", "toolkit") for path in (ROOT / top).rglob("*.md")]
pages = pytest.mark.parametrize("page", [*HERE, *BELOW], ids=lambda page: str(page.relative_to(ROOT)))


@pages
def test_programs_are_python(page: Path) -> None:
    for program in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        ast.parse(program)


@pages
def test_links_lead_to_a_file_and_to_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page: Path) -> set[str]:
    """The headings, as GitHub spells them in addresses."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
