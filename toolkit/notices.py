"""Plain lines for the person who watches, on stderr."""

from __future__ import annotations

import sys

from toolkit import ranks

_said: set[str] = set()


def say(text: str) -> None:
    """Said once, by the first of several processes that work together."""
    if ranks.is_first():
        print(printable(text), file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    """Say what this process has not said yet."""
    if text not in _said:
        _said.add(text)
        say(text)


def printable(text: str) -> str:
    """Text less what would steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
