"""What a stranger relies on: the plugin keeps the contract, and adds to a run what it says."""

from __future__ import annotations

import csv
import math

import pytest
from toolkit.testing import Project, check_plugin


def test_the_plugin_keeps_the_contract() -> None:
    check_plugin("my-extension")


def test_a_run_has_its_loss_in_bits_and_is_in_the_ledger(project: Project) -> None:
    run = project.run(
        "run", "--task", "my-extension", "--output-dir", "runs/first"
    ).assert_finished()
    after = run.summary["after"]
    assert after["bits_per_target"] == pytest.approx(after["loss"] / math.log(2))

    with (project.folder / "runs" / "ledger.csv").open(newline="") as file:
        lines = {line["metric"]: line for line in csv.DictReader(file)}
    assert set(lines) == set(after)
    assert (lines["loss"]["run"], float(lines["loss"]["after"])) == ("first", after["loss"])
