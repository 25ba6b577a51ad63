"""Plain lines for the person who watches, on stderr."""

from __future__ import annotations

import sys

_said: set[str] = set()


def say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def say_once(text: str) -> None:
    """Say what this process has not said yet."""
    if text not in _said:
        _said.add(text)
        say(text)


def printable(text: str) -> str:
    """Text less what would steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


def one_line(text: str, most: int = 500) -> str:
    """Text from outside on one line, as `printable`; the middle of a long one is left out."""
    line = " ".join(printable(text).split("\n"))
    return line if len(line) <= most else f"{line[: most // 2 - 2]} … {line[-(most // 2 - 1) :]}"
