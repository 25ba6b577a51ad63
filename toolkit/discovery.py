"""What is installed: plugins and tasks by name, read from package metadata without importing them."""

from __future__ import annotations

import ast
import difflib
import importlib.machinery
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import PluginError

Kind = Literal["plugin", "task"]


@dataclass(frozen=True)
class Installed:
    """A plugin or task that a distribution offers by entry point."""

    kind: Kind
    entry: EntryPoint

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def distribution(self) -> str:
        return self.entry.dist.name if self.entry.dist else "unknown"

    @property
    def version(self) -> str:
        return self.entry.dist.version if self.entry.dist else "unknown"

    @property
    def summary(self) -> str:
        """First line of the module's docstring, read from its source; empty where there is none."""
        source = _source_of(self.entry.module)
        try:
            docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source else None
        except (OSError, ValueError, SyntaxError):
            return ""
        return docstring.strip().splitlines()[0] if docstring and docstring.strip() else ""

    def load(self) -> Any:
        """Import what the entry point names; whatever goes wrong there is the package's fault and says so."""
        try:
            return self.entry.load()
        except Exception as error:
            raise PluginError(
                f"{self.describe()} could not be loaded\n  {type(error).__name__}: {error}",
                hint=f"repair or reinstall {self.distribution}",
            ) from error

    def describe(self) -> str:
        return f"{self.kind} '{self.name}' ({self.distribution} {self.version})"


def installed(kind: Kind) -> list[Installed]:
    """Every plugin or task on the path, sorted by name."""
    found = {
        (entry.name, entry.value, entry.dist and entry.dist.name): entry
        for entry in entry_points(group=f"toolkit.{kind}s")
    }
    return [Installed(kind, found[key]) for key in sorted(found, key=str)]


def find(kind: Kind, name: str) -> Installed:
    """The one with this name.

    Raises:
        PluginError: there is none, or two distributions claim the name.
    """
    everything = installed(kind)
    matches = [one for one in everything if one.name == name]
    if len(matches) > 1:
        owners = " and ".join(f"{one.distribution} {one.version}" for one in matches)
        raise PluginError(
            f"two packages offer a {kind} named '{name}': {owners}", hint="uninstall one of them"
        )
    if not matches:
        names = [one.name for one in everything]
        raise PluginError(
            f"no {kind} named '{name}' (installed: {', '.join(names) or 'none'})",
            hint=did_you_mean(name, names) or f"`toolkit {kind}s` lists what is installed",
        )
    return matches[0]


def did_you_mean(name: str, names: Iterable[str]) -> str | None:
    """A hint with the nearest of `names`, or None when nothing is near."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"did you mean '{near[0]}'?" if near else None


def _source_of(module: str) -> Path | None:
    """Where a module's source lies, found without importing it or its parents."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for depth, _ in enumerate(rest, start=2):
            if spec is None:
                return None
            spec = importlib.machinery.PathFinder.find_spec(
                ".".join(module.split(".")[:depth]), list(spec.submodule_search_locations or ())
            )
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
