"""Ours and the peers', measured side by side: `python -m benchmarks`."""

MODULES = (
    "benchmarks.overhead",
    "benchmarks.growth",
    "benchmarks.features",
    "benchmarks.audio",
    "benchmarks.text",
    "benchmarks.targets",
    "benchmarks.clip",
    "benchmarks.pieces",
)
"""Where the workloads are, in the order of the table."""
