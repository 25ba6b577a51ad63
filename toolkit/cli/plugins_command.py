"""List the installed plugins: what a recipe's `plugins` may name."""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli.tasks_command import add_arguments as add_arguments
from toolkit.cli.tasks_command import listing
from toolkit.cli.tasks_command import show as show


def execute(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    return listing("plugin"), 0
