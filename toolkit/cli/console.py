"""What commands print: results on stdout, faults on stderr, nothing from outside unescaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolkit.errors import ToolkitError
from toolkit.notices import indented, json_text, printable, tell, without_credentials


def print_document(document: Any) -> None:
    """One JSON document on stdout."""
    print(json_text(_without_credentials(document), indent=2))


def _without_credentials(value: Any) -> Any:
    """Each text by itself: an address may end where JSON goes on."""
    if isinstance(value, Mapping):
        return {_without_credentials(key): _without_credentials(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_credentials(one) for one in value]
    return without_credentials(value) if isinstance(value, str) else value


def print_faults(error: ToolkitError) -> None:
    """Every fault as `error: ...` and `hint: ...` on stderr."""
    for fault in error.all:
        tell(f"error: {indented(fault.message)}")
        if fault.hint:
            tell(f"hint: {indented(fault.hint)}")


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns padded to line up, the last as wide as it is."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip().replace("\n", "\n" + " " * (sum(widths[:-1]) + 2 * len(widths[:-1]))))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
