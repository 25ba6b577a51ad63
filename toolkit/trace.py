"""What the plugins answer to each hook, told as it happens: `--trace-hooks`."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pluggy

from toolkit.notices import say

_MOST = 100
"""How many letters of an answer are shown."""
_SLOW_SECONDS = 0.1

_on = False


@contextmanager
def trace_hooks(on: bool = True) -> Iterator[None]:
    """Have what is asked of the plugins that are loaded in this block told on stderr."""
    global _on
    before, _on = _on, on
    try:
        yield
    finally:
        _on = before


class Trace:
    """Says which hook was asked, who answered and what, in order; where it is not made, nothing is measured.

    hook toolkit_augment: whisper -> toolkit_whisper.augment.Augment
    hook toolkit_augment: extras -> toolkit_extras.noise.MixNoise
    hook toolkit_adapt: no plugin answers
    """

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self._began = 0.0
        manager.add_hookcall_monitoring(self._before, self._after)

    @classmethod
    def if_on(cls, manager: pluggy.PluginManager, plugins: Sequence[str]) -> Trace | None:
        """A trace of this manager's calls, within `trace_hooks`, which first says in which order plugins are asked."""
        if not _on:
            return None
        say(f"hooks are asked in this order: {', '.join(plugins) or 'there is no plugin'}")
        return cls(manager)

    def unanswered(self, hook: str) -> None:
        say(f"hook {hook}: no plugin answers")

    def _before(self, hook: str, asked: Sequence[Any], arguments: Mapping[str, Any]) -> None:
        self._began = time.monotonic()

    def _after(
        self, outcome: pluggy.Result[Any], hook: str, asked: Sequence[Any], arguments: Mapping[str, Any]
    ) -> None:
        """One plugin has been asked; one that does not have the hook is passed over."""
        seconds = time.monotonic() - self._began
        for one in asked:
            answer = f"raises {outcome.exception!r}" if outcome.exception else _answer(outcome.get_result())
            took = f" ({seconds:.1f} s)" if seconds >= _SLOW_SECONDS else ""
            say(f"hook {hook}: {one.plugin_name} -> {answer}{took}")


def _answer(results: Sequence[Any]) -> str:
    return short(results[0]) if results else "None"


def short(value: Any) -> str:
    """A value on one line: what can be called by its full name, lists by what is in them."""
    if isinstance(value, list | tuple):
        text = f"[{', '.join(map(short, value))}]"
    elif isinstance(value, functools.partial):
        text = f"partial of {short(value.func)}"
    elif isinstance(value, type) or inspect.isroutine(value):
        text = f"{value.__module__}.{value.__qualname__}"
    else:
        text = " ".join(repr(value).split())
        text = short(type(value)) if " at 0x" in text else text
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
