"""What grows with the number of rows, and what must not."""

from __future__ import annotations

from benchmarks.frame import Workload

WORKLOADS: list[Workload] = []
