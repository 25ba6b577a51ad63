"""What the toolkit costs beside the work itself."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.frame import Measured, Setting, Side, Target, Workload, measuring

STARTS = 5


def _starts(command: list[str]) -> Measured:
    """Start a program a few times, the first time unmeasured: files are then in memory."""
    subprocess.run(command, check=True, capture_output=True)
    with measuring() as meter:
        for _ in range(STARTS):
            subprocess.run(command, check=True, capture_output=True)
    return meter.measured({"starts": STARTS}, {"seconds_each": meter.seconds / STARTS})


def _python(setting: Setting) -> Measured:
    return _starts([sys.executable, "-c", "pass"])


def _help(setting: Setting) -> Measured:
    return _starts([sys.executable, "-m", "toolkit", "--help"])


WORKLOADS = [
    Workload(
        "help",
        "`toolkit --help` against a Python that does nothing",
        sides=[Side("python", _python), Side("toolkit", _help)],
        baseline="python",
        targets=[Target("toolkit", "seconds_each", at_most=0.3, alone=True, sizes=("small", "full"))],
    )
]
