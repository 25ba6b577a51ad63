"""Plain lines for the person who watches, on stderr."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def printable(text: str) -> str:
    """Text less what would steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
