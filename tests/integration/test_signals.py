"""A real signal to a real process while the cache is filled."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.torture.torture import DECODER
from toolkit.cli import main

pytestmark = pytest.mark.slow

SHORT = [
    "run", "--task", "whisper-asr", "--set", f"adapter.target_modules={json.dumps(DECODER)}",
    "--set", "data.limit=24", "--set", "train.max_steps=2", "--set", "train.per_device_eval_batch_size=1",
    "--set", "train.use_cpu=true", "--set", "train.eval_strategy=no",
]  # fmt: skip


def kept(cache: Path) -> list[Path]:
    """What the encoder has made, as far as it is there."""
    stages = [one.parent for one in cache.glob("frozen/*/stage.json") if "encoder" in one.read_text()]
    return [row for stage in stages for row in stage.glob("*/*.safetensors")]


def test_sigterm_while_the_cache_is_filled(tmp_path: Path) -> None:
    """The run ends within a batch; what was kept is whole, is used, and the run goes on as if nothing had been."""
    cache, folder = tmp_path / "cache", tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "toolkit", *SHORT, "--set", f"cache.dir={cache}", "--output-dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not kept(cache):
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    started, before = time.monotonic(), len(kept(cache))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 143, said
    assert f"go on with: toolkit resume {folder}" in said
    assert "before  test" not in said
    assert before <= len(kept(cache)) < before + 5
    assert not list(cache.rglob("*.partial"))
    assert json.loads((folder / "summary.json").read_text())["status"] == "interrupted"
    written = {row: row.stat().st_mtime_ns for row in kept(cache)}
    assert main(["resume", str(folder)]) == 0
    assert all(row.stat().st_mtime_ns == when for row, when in written.items())
    other = ["--set", f"cache.dir={tmp_path / 'other'}", "--output-dir", str(tmp_path / "whole")]
    assert main([*SHORT, *other]) == 0
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (folder / name).read_text() == (tmp_path / "whole" / name).read_text()
