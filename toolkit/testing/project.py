"""The command line in a folder of the test's own, and what came of it."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and how it ended.

    Attributes:
        arguments: of the command line, after `toolkit`.
        status: its exit status.
        out, err: what it wrote to stdout and to stderr.
        folder: where it was run.
    """

    arguments: tuple[str, ...]
    status: int
    out: str
    err: str
    folder: Path

    @property
    def json(self) -> Any:
        """The document on stdout, of a command that was given `--json`."""
        try:
            return json.loads(self.out)
        except ValueError:
            raise AssertionError(self._told("stdout holds no JSON document")) from None

    @property
    def run_folder(self) -> Path:
        """Where the command trained: as `--output-dir` or its argument says, else the latest in `runs/`."""
        command, *rest = self.arguments
        if "--output-dir" in rest:
            return self.folder / rest[rest.index("--output-dir") + 1]
        if command != "run":
            return self.folder / next(one for one in rest if not one.startswith("-"))
        found = sorted((self.folder / "runs").glob("*"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise AssertionError(self._told("there is no run"))
        return found[-1]

    @property
    def summary(self) -> dict[str, Any]:
        """The run's `summary.json`."""
        path = self.run_folder / "summary.json"
        if not path.is_file():
            raise AssertionError(self._told(f"the run wrote no {path.relative_to(self.folder)}"))
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return summary

    def assert_finished(self) -> Self:
        """It ended well, and where it was a run, the run is finished."""
        if self.status != 0:
            raise AssertionError(self._told(f"it ended with status {self.status}, not 0"))
        if self.arguments[0] in ("run", "resume") and (found := self.summary["status"]) != "finished":
            raise AssertionError(self._told(f"the run is {found}, not finished"))
        return self

    def assert_refused(self, error: str = "", hint: str = "") -> Self:
        """It found the input wrong and said so.

        Args:
            error, hint: texts that stand in its lines `error: ...` and `hint: ...`.
        """
        if self.status != 2:
            raise AssertionError(self._told(f"it ended with status {self.status}, not 2"))
        for kind, text in (("error", error), ("hint", hint)):
            if text not in (said := self._said(kind)):
                raise AssertionError(self._told(f"expected {kind} {text!r}, found {said!r}"))
        return self

    def _said(self, kind: str) -> str:
        """All faults, or all hints; a fault may go on over several lines."""
        found, taking = [], False
        for line in self.err.splitlines():
            if line.startswith(("error: ", "hint: ")):
                taking = line.startswith(f"{kind}: ")
            if taking:
                found.append(line.removeprefix(f"{kind}: "))
        return "\n".join(found)

    def _told(self, problem: str) -> str:
        return f"toolkit {' '.join(self.arguments)}: {problem}\n{self.err}{self.out}".rstrip()


class Project:
    """A folder with a user's files, in which commands are run, in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str | bytes | Sequence[Any]) -> Path:
        """A file of that name: text, bytes, or a list of rows as JSON lines."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    def run(self, *arguments: str | Path) -> Outcome:
        """`toolkit ARGUMENTS` in the folder."""
        from toolkit.cli import main

        given = tuple(map(str, arguments))
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                status = main(given)
            except SystemExit as end:  # of --help and --version
                status = int(end.code or 0)
        return Outcome(given, status, out.getvalue(), err.getvalue(), self.folder)
