"""What a run ran on: versions, commit, device."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_PACKAGES = ("task-toolkit", "torch", "transformers", "peft", "accelerate", "datasets", "bitsandbytes", "torchaudio",
             "soundfile", "pillow", "evaluate", "pluggy", "numpy")  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions of Python and the packages, the git commit of the working folder, and the device."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: found for name in _PACKAGES if (found := package_version(name))},
        "git_commit": _commit(),
        "device": _device(),
    }


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
