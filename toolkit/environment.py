"""What a run ran on: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from packaging.requirements import Requirement


def environment() -> dict[str, Any]:
    """Versions of Python and the packages, the git commit of the working folder, and the device."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: found for name in ("task-toolkit", *distributions()) if (found := package_version(name))
        },
        "git_commit": _commit(),
        "device": _device(),
    }


def distributions() -> dict[str, bool]:
    """The packages that the toolkit asks for, with its extra `all`, and whether it does so without the extra."""
    asked = [Requirement(one) for one in requires("task-toolkit") or ()]
    return {one.name: _asked_for(one, "") for one in asked if _asked_for(one, "all")}


def _asked_for(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _device() -> str:
    try:
        import torch
    except (ImportError, OSError):
        return "unknown device: torch cannot be imported"
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu ({torch.get_num_threads()} threads)"
