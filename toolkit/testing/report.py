"""What became of each law."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["passed", "failed", "does not apply", "not run"]


@dataclass(frozen=True)
class Result:
    """One law and a plugin.

    Attributes:
        law: its name.
        sentence: what it says.
        status: `does not apply` where the plugin does nothing that the law is about, `not run` where another law
            would have to hold first.
        finding: what happened and what was expected, or why the law does not apply or was not run.
        hint: what to do.
        seconds: how long it took.
    """

    law: str
    sentence: str
    status: Status
    finding: str | None = None
    hint: str | None = None
    seconds: float = 0.0

    def lines(self) -> Iterator[str]:
        """As people read it."""
        if self.status in ("passed", "failed"):
            yield f"{self.status:<14}  {self.sentence}"
        else:
            yield f"{self.status:<14}  {self.sentence} ({self.finding})"
        if self.status == "failed":
            yield from (f"  {line}" for line in (self.finding or "").splitlines())
            if self.hint:
                yield f"  hint: {self.hint}"


@dataclass(frozen=True)
class Report:
    """A plugin and all laws.

    Attributes:
        recipe: the name of the recipe it was checked in, None where there is none.
    """

    plugin: str
    distribution: str
    version: str
    recipe: str | None
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Result, ...]:
        return tuple(one for one in self.results if one.status == "failed")

    def status(self, law: str) -> Status:
        """What became of the law of this name."""
        return next(one.status for one in self.results if one.law == law)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as `toolkit plugins --check --json` prints it."""
        return {
            "plugin": self.plugin,
            "distribution": self.distribution,
            "version": self.version,
            "recipe": self.recipe,
            "ok": self.ok,
            "laws": [asdict(one) for one in self.results],
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Report:
        """What `as_dict` gave."""
        values = {key: document[key] for key in ("plugin", "distribution", "version", "recipe")}
        return cls(**values, results=tuple(Result(**one) for one in document["laws"]))

    def __str__(self) -> str:
        where = f", in the recipe {self.recipe}" if self.recipe else ""
        lines = [f"plugin '{self.plugin}' ({self.distribution} {self.version}){where}"]
        lines += [line for one in self.results for line in one.lines()]
        return "\n  ".join(lines)
