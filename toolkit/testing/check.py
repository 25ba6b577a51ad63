"""A plugin held to the contract, law by law."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from toolkit.discovery import installed
from toolkit.errors import PluginError, ToolkitError
from toolkit.notices import say
from toolkit.recipe import Recipe
from toolkit.testing.laws import LAWS, Law
from toolkit.testing.report import Report, Result, Status
from toolkit.testing.subject import DoesNotApply, Subject


def check_plugin(name: str, recipe: Recipe | str | Path | None = None) -> Report:
    """Hold an installed plugin to the contract.

    Args:
        recipe: what it is checked in: a recipe, a file or a task; by default the first installed task that names the
            plugin and ships a sample, or for a plugin without a model any task that ships one. It should be small.
    Raises:
        AssertionError: it breaks a law; the message has a line for each.
        PluginError: no plugin has this name.
    """
    report = examine(name, recipe)
    if not report.ok:
        raise AssertionError(str(report))
    return report


def examine(name: str, recipe: Recipe | str | Path | None = None) -> Report:
    """As `check_plugin`, but what is broken is only reported."""
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(name, recipe, Path(folder))
        say(f"checking {subject.plugin.describe()}")
        results: dict[str, Result] = {}
        for law in LAWS:
            results[law.name] = _judged(law, subject, results)
        plugin, found = subject.plugin, subject.recipe_name
    return Report(plugin.name, plugin.distribution, plugin.version, found, tuple(results.values()))


def examine_all() -> Iterator[Report]:
    """Every installed plugin; one whose name several packages claim is reported as broken."""
    for plugin in {one.name: one for one in installed("plugin")}.values():
        try:
            yield examine(plugin.name)
        except PluginError as fault:
            first = Result(LAWS[0].name, LAWS[0].sentence, "failed", fault.message, fault.hint)
            yield Report(plugin.name, plugin.distribution, plugin.version, None, (first,))


def _judged(law: Law, subject: Subject, known: dict[str, Result]) -> Result:
    """What becomes of one law, those before it being known; nothing that a plugin does ends the check."""
    missing = [known[name] for name in law.needs if known[name].status in ("failed", "not run")]
    if missing:
        return Result(law.name, law.sentence, "not run", f"needs {missing[0].law}")
    started = time.monotonic()
    status: Status = "passed"
    finding, hint = None, None
    try:
        with _quiet():
            law.check(subject)
    except DoesNotApply as reason:
        status, finding = "does not apply", str(reason)
    except ToolkitError as fault:
        status = "failed"
        finding, hint = "\n".join(one.message for one in fault.all), fault.all[0].hint
    except (Exception, SystemExit) as error:
        status, finding = (
            "failed",
            f"{type(error).__name__}: {error}\n{_where(error, subject.plugin.entry.module)}",
        )
        hint = "only errors of the toolkit may leave a hook, and only where its documentation says so"
    return Result(law.name, law.sentence, status, finding, hint, round(time.monotonic() - started, 3))


def _where(error: BaseException, module: str) -> str:
    """Where an exception passed through the plugin last, and where it arose."""
    package, frames = module.partition(".")[0], list(traceback.walk_tb(error.__traceback__))
    own = [one for one in frames if str(one[0].f_globals.get("__name__")).partition(".")[0] == package]
    shown = dict.fromkeys((frame.f_code, line) for frame, line in [*own[-2:], *frames[-1:]])
    return "\n".join(f"  {code.co_filename}, line {line}, in {code.co_name}" for code, line in shown)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Runs tell what they do; a report does not."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
