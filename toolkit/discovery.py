"""What is installed: plugins and tasks by name, read from package metadata without importing them."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, distribution, distributions
from pathlib import Path
from typing import Any, Literal

from toolkit.errors import PluginError, did_you_mean, in_one_line

Kind = Literal["plugin", "task"]
KINDS: tuple[Kind, ...] = ("plugin", "task")

_MOST_NAMES = 20
"""How many names an error lists."""


@dataclass(frozen=True)
class Installed:
    """A plugin or task that a distribution offers by entry point."""

    kind: Kind
    entry: EntryPoint
    distribution: str
    version: str

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def full_name(self) -> str:
        """The name that tells it from another distribution's of the same name."""
        return f"{self.distribution}:{self.name}"

    @property
    def module(self) -> str:
        """The module that the entry point names; empty where it names none."""
        match = self.entry.pattern.match(self.entry.value)
        return match.group("module") if match else ""

    @property
    def summary(self) -> str:
        """First line of the module's docstring, read from its source; empty where there is none."""
        source = _source_of(self.module) if self.module else None
        try:
            docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) if source else None
        except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            return ""
        return docstring.strip().splitlines()[0] if docstring and docstring.strip() else ""

    def load(self) -> Any:
        """Import what the entry point names; whatever goes wrong there is the package's fault and says so."""
        if not self.module:
            raise self.failure([f"its entry point names no module: {self.entry.value!r}"])
        try:
            return self.entry.load()
        except (Exception, SystemExit) as error:
            raise self.failure([in_one_line(error)], self._remedy(error)) from error

    def _remedy(self, error: BaseException) -> str | None:
        """What to do about an import that failed, where the error tells."""
        needed = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
        if not needed or _top(needed) == _top(self.module):
            return None
        return (
            f"install what it needs, the module '{_top(needed)}', or repair or reinstall {self.distribution}"
        )

    def lacking(self, error: ModuleNotFoundError, hook: str) -> PluginError:
        """The error of a hook that needs a package which is not installed."""
        return PluginError(
            f"{self.describe()}: {hook} needs the module '{error.name}', which is not installed",
            hint=self._remedy(error) or f"repair or reinstall {self.distribution}",
        )

    def failure(self, reasons: Sequence[str], remedy: str | None = None) -> PluginError:
        """The error that says why it cannot be used."""
        return PluginError(
            "\n  ".join([f"{self.describe()} could not be loaded", *reasons]),
            hint=remedy or f"repair or reinstall {self.distribution}",
        )

    def describe(self) -> str:
        return f"{self.kind} '{self.name}' ({self.distribution} {self.version})"


def installed(kind: Kind) -> list[Installed]:
    """Every plugin or task on the path, sorted by name; packages whose metadata cannot be read offer none."""
    return _look_around(kind)[0]


def find(kind: Kind, name: str) -> Installed:
    """The one with this name, or with this `distribution:name`.

    Raises:
        PluginError: there is none, or several distributions claim the name.
    """
    everything, unreadable = _look_around(kind)
    matches = [one for one in everything if name in (one.name, one.full_name)]
    if len(matches) > 1:
        raise _several(kind, name, matches)
    if not matches:
        raise _none(kind, name, everything, unreadable)
    return matches[0]


def metadata_faults() -> list[str]:
    """What the metadata alone tell to be wrong: those that cannot be read, and names that several packages offer."""
    faults: list[str] = []
    for kind in KINDS:
        everything, unreadable = _look_around(kind)
        names = Counter(one.name for one in everything)
        twice = [
            [one for one in everything if one.name == name] for name, count in names.items() if count > 1
        ]
        faults += [*unreadable, *(_several(kind, claimed[0].name, claimed).message for claimed in twice)]
    return list(dict.fromkeys(faults))


def bare(name: str) -> str:
    """The name of a plugin or task less the distribution that may stand before it."""
    return name.rpartition(":")[2]


def place_in_plugin(error: BaseException) -> str | None:
    """The line of an installed plugin where an exception came by last; None where it was in no plugin."""
    owners = {_top(one.module): one for one in installed("plugin")}
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__"))
        if owner := owners.get(_top(module)):
            return f"in {owner.describe()}: {module}, line {line}"
    return None


def _top(module: str) -> str:
    return module.partition(".")[0]


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


# ---- metadata ------------------------------------------------------------------------------------------


def _look_around(kind: Kind) -> tuple[list[Installed], list[str]]:
    """What is offered, sorted by name; and of the distributions that cannot be read, which and why."""
    found: dict[tuple[str, ...], Installed] = {}
    unreadable = []
    for one in distributions():
        try:
            for offer in _offers(kind, one):
                found.setdefault((offer.name, offer.entry.value, offer.distribution), offer)
        except Exception as error:  # of any kind: the files are foreign
            place = getattr(one, "_path", "a distribution")
            unreadable.append(f"the metadata in {place} cannot be read: {in_one_line(error)}")
    return [found[key] for key in sorted(found)], unreadable


def _offers(kind: Kind, package: Distribution) -> list[Installed]:
    entries = [entry for entry in package.entry_points if entry.group == f"toolkit.{kind}s"]
    if not entries or _is_shadowed(package):
        return []
    version = package.version or "unknown"
    return [Installed(kind, entry, package.metadata["Name"], version) for entry in entries]


def _is_shadowed(package: Distribution) -> bool:
    """Whether another copy comes before it on the path, so that this one is not what is imported."""
    return distribution(package.metadata["Name"]).locate_file("") != package.locate_file("")


# ---- errors --------------------------------------------------------------------------------------------


def _several(kind: Kind, name: str, matches: Sequence[Installed]) -> PluginError:
    owners = " and ".join(f"{one.distribution} {one.version}" for one in matches)
    count = "two" if len(matches) == 2 else len(matches)
    choices = " or ".join(f"'{one.full_name}'" for one in matches)
    return PluginError(
        f"{count} packages offer a {kind} named '{name}': {owners}",
        hint=f"say which: {choices}; or uninstall all but one",
    )


def _none(kind: Kind, name: str, there: Sequence[Installed], unreadable: Sequence[str]) -> PluginError:
    names = list(dict.fromkeys(one.name for one in there))
    few = [*names[:_MOST_NAMES], "…"] if len(names) > _MOST_NAMES else names
    near = did_you_mean(name, [*names, *(one.full_name for one in there)])
    return PluginError(
        "\n  ".join([f"no {kind} named '{name}' (installed: {', '.join(few) or 'none'})", *unreadable]),
        hint=near or f"`toolkit {kind}s` lists what is installed",
    )
