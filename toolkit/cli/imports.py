"""What takes seconds to import, in one go."""

from __future__ import annotations

import gc
import importlib
import sys


def import_what_runs() -> None:
    """Import what a run needs, and have the garbage collector leave it alone: its million objects stay.

    It would look through them time and again, which takes a quarter of the time to the first step.
    """
    needed = ("toolkit.opening", "toolkit.execution")
    if needed[0] in sys.modules:  # what there is by now may be a program's own, and is to be collected
        return
    gc.disable()
    try:
        for name in needed:
            importlib.import_module(name)
        gc.freeze()
    finally:
        gc.enable()
