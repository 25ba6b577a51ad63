"""What the README tells to type works, on a few rows of the sample."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from toolkit.testing import Project

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
QUICK = ("--set", "train.max_steps=1", "--set", "eval.max_samples=4")


def test_what_the_readme_tells_to_type_works(
    project: Project, rows: dict[str, list[dict[str, Any]]], noise: Path
) -> None:
    for split, some in rows.items():
        project.write(f"recordings/{split}.jsonl", some)
    noise.rename(project.folder / "noise")
    typed = [shlex.split(line)[1:] for line in re.findall(r"^toolkit .*$", README, re.MULTILINE)]
    assert [command[0] for command in typed] == ["run", "run", "run"]
    for number, command in enumerate(typed):
        project.run(*command, *QUICK, "--output-dir", f"run-{number}").assert_finished()
