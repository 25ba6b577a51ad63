"""What the hooks hand to the core."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Self

from toolkit import Metric, Run, Scored


class BitsPerTarget(Metric):
    """`bits_per_target`: the loss in bits, the length of the shortest code for a target.

    Sums are kept and divided once, so neither the size nor the order of the batches matters.

    >>> bits = BitsPerTarget()
    >>> bits.add(nats=3 * math.log(2), targets=2)
    >>> bits.compute()
    {'bits_per_target': 1.5}
    """

    higher_is_better = False

    def __init__(self) -> None:
        self.nats, self.targets = 0.0, 0

    def update(self, scored: Scored) -> None:
        self.add(float(scored.loss.total), int(scored.loss.count))

    def add(self, nats: float, targets: int) -> None:
        self.nats += nats
        self.targets += targets

    def merge(self, other: Self) -> None:
        self.add(other.nats, other.targets)

    def compute(self) -> dict[str, float]:
        bits = self.nats / math.log(2)
        return {"bits_per_target": bits / self.targets if self.targets else float("nan")}


def note(run: Run, ledger: Path) -> None:
    """Add a line for each metric of a complete run: what it was before, and what it is after."""
    before, after = run.summary["before"], run.summary["after"]
    is_new = not ledger.exists()
    with ledger.open("a", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        if is_new:
            table.writerow(["run", "task", "metric", "before", "after"])
        table.writerows(
            [run.folder.name, run.recipe.name, name, before.get(name), after[name]]
            for name in after
        )
