"""List the installed tasks: what `toolkit run --task NAME` knows."""

from __future__ import annotations

import argparse
from typing import Any

from toolkit.cli.console import print_table
from toolkit.discovery import Kind, installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to choose."""


def execute(options: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    return listing("task"), 0


def listing(kind: Kind) -> list[dict[str, Any]]:
    return [
        {"name": one.name, "distribution": one.distribution, "version": one.version, "summary": one.summary}
        for one in installed(kind)
    ]


def show(document: list[dict[str, Any]]) -> None:
    if not document:
        print("none installed")
        return
    print_table(
        [[one["name"], one["summary"], f"({one['distribution']} {one['version']})"] for one in document]
    )
