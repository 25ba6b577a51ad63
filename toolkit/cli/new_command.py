"""Write a small package of your own: a plugin, a task that runs as it is, tests and a README.

toolkit new leaf-disease
toolkit new field-notes --kind extension --dir packages/
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from toolkit.notices import printable
from toolkit.scaffold import new_package


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of the plugin, the task and the folder that is written")
    parser.add_argument("--dir", metavar="DIR", default=".", help="where the folder goes (default: here)")
    parser.add_argument(
        "--kind",
        choices=("task", "extension"),
        default="task",
        help="task: a kind of model and a task for it (default)\nextension: something that adds to any run",
    )


def execute(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    folder, files = new_package(options.name, Path(options.dir), options.kind)
    return {"name": options.name, "kind": options.kind, "folder": str(folder), "files": files}, 0


def show(document: dict[str, Any]) -> None:
    print(printable(f"wrote {document['folder']}: a plugin, a task, tests and a README. To try them:\n"))
    print(printable(f"  cd {document['folder']}"))
    print("  pip install --no-build-isolation -e .")
    print("  pytest")
    print(f"  toolkit run --task {document['name']}")
