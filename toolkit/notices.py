"""Plain lines for the person who watches, on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from toolkit import ranks

_said: set[str] = set()
_ADDRESS = re.compile(r"(?::/|[?&])[^\s'\"]+")
_CREDENTIALS = re.compile(
    r"(:/{1,2})(?:[^/@:]+:(?:(?!:/).)*|[^/@]+)(?=@)|([?&;#](?:[\w.%-]*(?:token|key|secret|signature|credential"
    r"|password|passwd|pwd|auth)|(?:[\w.%-]*[._-])?(?:sig|code|pass))=)[^&]+",
    re.IGNORECASE,
)


def tell(text: str) -> None:
    """A line on stderr; that nobody reads it any more, as when a pager has ended, is no reason to stop."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        with contextlib.suppress(OSError):  # no more is to be heard there
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def say(text: str) -> None:
    """Said once, by the first of several processes that work together."""
    if ranks.is_first():
        tell(indented(text))


def say_once(text: str) -> None:
    """Say what this process has not said yet."""
    if text not in _said:
        _said.add(text)
        say(text)


def printable(text: str) -> str:
    """Text less what would steer a terminal, and less passwords in addresses."""
    shown = (char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
    return without_credentials("".join(shown))


def indented(text: str) -> str:
    """As `printable`; further lines are set in, so that none from outside passes for one of ours."""
    return re.sub(r"\n(?=[^\s])", "\n  ", printable(text))


def without_credentials(text: str) -> str:
    """Text whose addresses show no password, token or key.

    >>> without_credentials("https://me:pass@host/x?token=abc&page=2")
    'https://***@host/x?token=***&page=2'
    """

    def masked(address: re.Match[str]) -> str:
        return _CREDENTIALS.sub(lambda found: f"{found[1] or found[2]}***", address[0])

    return _ADDRESS.sub(masked, text)


class _Record(logging.LogRecord):
    """What a library logs, as `without_credentials`."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        return without_credentials(super().getMessage())


@contextmanager
def libraries_without_credentials() -> Iterator[None]:
    """Meanwhile what libraries log and warn of shows no password, token or key of an address."""
    factory, as_text = logging.getLogRecordFactory(), warnings.formatwarning

    def masked(*warning: Any, **more: Any) -> str:
        return without_credentials(as_text(*warning, **more))

    logging.setLogRecordFactory(_Record)
    warnings.formatwarning = masked
    try:
        yield
    finally:
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = as_text


def finite(values: Any) -> Any:
    """Plain data whose numbers JSON can hold: what is not finite becomes null."""
    if isinstance(values, Mapping):
        return {key: finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def json_text(data: Any, indent: int | None = None) -> str:
    """JSON that reads back equal, and shows on a terminal without steering it."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def one_line(text: str, most: int = 500) -> str:
    """Text from outside on one line, as `printable`; the middle of a long one is left out."""
    line = " ".join(printable(text).split("\n"))
    return line if len(line) <= most else f"{line[: most // 2 - 2]} … {line[-(most // 2 - 1) :]}"
