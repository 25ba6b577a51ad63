"""examples/notebook.ipynb runs in a kernel, from top to bottom, and shows what it is stored with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def results(cell: Any) -> str:
    """What its last expression gives; decimals, which processors compute differently, as `#`."""
    shown = [output.data["text/plain"] for output in cell.outputs if output.output_type == "execute_result"]
    return re.sub(r"\d+\.\d+", "#", "\n".join(shown))


def said(cell: Any) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    return NotebookClient(notebook, timeout=300, kernel_name="python3", resources=place).execute()


@pytest.mark.slow
def test_it_shows_what_it_is_stored_with(executed: Any) -> None:
    stored = nbformat.read(NOTEBOOK, as_version=4)
    for cell, before in zip(code_cells(executed), code_cells(stored), strict=True):
        if ".predict(" in cell.source:  # words, of which few are certain after so short a training
            assert results(cell).count("'") == results(before).count("'") > 0
        else:
            assert results(cell) == results(before), cell.source


@pytest.mark.slow
def test_progress_is_plain_lines(executed: Any) -> None:
    lines = [line for cell in code_cells(executed) for line in said(cell).splitlines()]
    assert [line.split("  ")[0] for line in lines if re.match(r"step (\d+)/\1 ", line)] == [
        "step 90/90", "step 30/30", "step 30/30",
    ]  # fmt: skip
    assert not [line for line in lines if "\x1b" in line]
    shown = {
        kind for cell in code_cells(executed) for output in cell.outputs for kind in output.get("data", ())
    }
    assert shown == {"text/plain"}


def test_what_is_stored_names_no_folder_of_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in code_cells(notebook):
        assert not re.search(r"(^|[\s'\"(])/\w+/", said(cell) + results(cell))
    assert not [cell for cell in code_cells(notebook) if not cell.outputs and "import" not in cell.source]
