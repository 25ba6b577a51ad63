"""The short version of `make torture`, in a process of its own from which lives can be forked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.torture.torture import CASES


@pytest.mark.slow
@pytest.mark.parametrize("case", [0, 3])
def test_killed_and_resumed_is_as_never_killed(case: int) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.torture.torture",
        "--kills",
        "4",
        "--seed",
        "1",
        "--case",
        str(case),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    assert f"{list(CASES)[case]}: 4 kills, the same as undisturbed" in done.stdout
