"""What a run imports is no matter for the garbage collector; what a program has is."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, sys
{first}
from toolkit.cli.imports import import_what_runs
import_what_runs()
print("toolkit.execution" in sys.modules, gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


def printed(first: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_what_is_imported_stays_out_of_the_collectors_way() -> None:
    assert printed("") == "True True True"


def test_in_a_program_that_has_imported_it_nothing_is_frozen() -> None:
    assert printed("import toolkit.opening, toolkit.execution").endswith("True False")
