"""Both sides of a piece compute the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import SAMPLE_OF, SAMPLES
from benchmarks.frame import Setting, Workload
from benchmarks.pieces import WORKLOADS


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.name)
def test_both_sides_compute_the_same(workload: Workload, tmp_path: Path) -> None:
    samples = {kind: str(SAMPLES / place) for kind, place in SAMPLE_OF.items()}
    setting = Setting("small", samples, samples, tmp_path, tmp_path / "shared", threads=1, seed=1)
    setting.shared.mkdir()
    if workload.prepare is not None:
        workload.prepare(setting)
    found = []
    for side in workload.sides:
        (tmp_path / side.name).mkdir()
        found.append(side.run(replace(setting, folder=tmp_path / side.name)))
    assert all(one.work == found[0].work for one in found)
    if workload.name == "piece-padding":
        at_random, grouped, packed = (one.quality["padding"] for one in found)
        assert at_random > max(grouped, packed)
    else:
        assert found[1].quality == pytest.approx(found[0].quality, rel=1e-4)
