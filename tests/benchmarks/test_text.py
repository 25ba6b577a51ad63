"""Chat pairs: that all sides learn the same tokens of the same rows, on the sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toolkit_causal_lm.prepare import Prepare
from toolkit_causal_lm.settings import CausalLMSettings

from benchmarks.__main__ import SAMPLE_OF, SAMPLES
from benchmarks.frame import Setting
from benchmarks.text import WORKLOADS, chats, encoded, model_and_tokenizer


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    found = {kind: str(SAMPLES / SAMPLE_OF[kind]) for kind in ("llama", "chats")}
    return Setting("small", found, found, tmp_path, tmp_path, threads=1, seed=1)


def test_the_script_has_our_labels(setting: Setting) -> None:
    _, tokenizer = model_and_tokenizer(setting)
    prepare = Prepare(tokenizer, CausalLMSettings())
    rows = chats(setting, "train", 100)
    for row in rows:
        (piece,) = prepare(row)["pieces"]
        assert encoded(tokenizer, row) == {"input_ids": piece.ids, "labels": piece.labels}
    assert len({str(row) for row in rows}) > 90


def test_sides_do_the_same_work_and_learn_as_well(setting: Setting) -> None:
    workload = next(one for one in WORKLOADS if one.name == "llama-script")
    done: dict[str, Any] = {}
    for side in workload.sides:
        folder = setting.folder / side.name
        done[side.name] = side.run(replace(setting, folder=folder))
    ours, *others = done.values()
    for other in others:
        assert other.work == ours.work
        assert other.quality["loss"] == pytest.approx(ours.quality["loss"], rel=0.02)
