"""The memory of an evaluation does not grow with the number of rows it has gone through."""

from __future__ import annotations

import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.plugins.causal_lm.conftest import nano_llama, nano_tokenizer
from tests.plugins.whisper.conftest import nano_whisper
from toolkit import Recipe, Row, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
EARLY, BATCH = 64, 8
TRAIN = {
    "max_steps": 1, "per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH, "use_cpu": True,
    "save_strategy": "no", "eval_strategy": "no",
}  # fmt: skip


class Watched:
    """The same row many times, and what the process holds when the early ones and nearly all have been asked for."""

    def __init__(self, row: Row, count: int) -> None:
        self.row, self.count = row, count
        self.traced: dict[int, int] = {}
        self.resident: dict[int, int] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Row:
        if place >= self.count:
            raise IndexError(place)
        if place in (EARLY, self.count - BATCH):
            gc.collect()
            self.traced[place] = tracemalloc.get_traced_memory()[0]
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident[place] = pages * os.sysconf("SC_PAGE_SIZE")
        return self.row


def speech(folder: Path) -> tuple[Recipe, Row]:
    for part in nano_whisper(languages=["en"], multilingual=False):
        part.save_pretrained(folder / "model")
    noise = np.random.default_rng(0).normal(0, 0.1, 24_000)
    soundfile.write(folder / "clip.wav", noise, 16_000)
    row = {"path": str(folder / "clip.wav"), "sentence": "what was said"}
    return Recipe(name="speech", plugins=["whisper"], whisper={"max_new_tokens": 3}), row


def text(folder: Path) -> tuple[Recipe, Row]:
    tokenizer = nano_tokenizer()
    for part in (nano_llama(tokenizer), tokenizer):
        part.save_pretrained(folder / "model")
    row = {"prompt": "Say it.", "completion": "ha" * 60}
    return Recipe(name="text", plugins=["causal-lm"], **{"causal-lm": {"max_new_tokens": 3}}), row


@pytest.mark.parametrize(("kind", "count"), [(text, 1024), (speech, 512)])
def test_an_evaluation_keeps_nothing_of_its_rows(
    kind: Callable[[Path], tuple[Recipe, Row]], count: int, in_tmp: Path, tmp_path: Path
) -> None:
    """Of texts the logits of all rows would be 110 MB, of speech the features and what is heard in them 40 MB."""
    recipe, row = kind(tmp_path)
    changes: dict[str, Any] = {"model": str(tmp_path / "model"), "train": TRAIN, "eval": {"before": False}}
    made = run(recipe.override(**changes), "made", data={"train": [row] * 8, "validation": [row] * 8})
    rows = Watched(row, count)
    tracemalloc.start()
    try:
        made.evaluate({"test": rows})
    finally:
        tracemalloc.stop()
    last = count - BATCH
    grown = rows.resident[last] - rows.resident[EARLY]
    assert (rows.traced[last] - rows.traced[EARLY]) / (last - EARLY) < 150  # lists of free objects fill up
    assert grown < 10e6
