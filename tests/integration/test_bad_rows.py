"""Rows of every bad kind: each is used where that is right, else put aside with its reason; the run goes on."""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import resource
import shutil
import signal
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image

from toolkit import Recipe, run

USED = None
ROOM = 2 << 30
"""Bytes that a run over all these rows may take beside what the process has."""
MOST_SECONDS = 240

Make = Callable[[Path], object]


class Case(NamedTuple):
    """What is laid at the path that the row names, the rest of the row, and words of the reason; None: it is used.

    A row that is bytes is the line itself.
    """

    make: Make
    reason: str | None
    row: dict[str, Any] | bytes = {}  # noqa: RUF012, never changed
    suffix: str = ""


# ---- what is laid there ------------------------------------------------------------------------------------


def nothing(path: Path) -> None:
    """No file."""


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def link(target: str) -> Make:
    return lambda path: path.symlink_to(target)


def sine(seconds: float, rate: int = 16_000, channels: int = 1) -> Any:
    times = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.1 * np.sin(880 * np.pi * times)[:, None], channels, axis=1)


def sound(samples: Any, rate: int = 16_000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def wav_header(*, channels: int = 1, rate: int = 16_000, claimed: int = 0, data: bytes = b"") -> bytes:
    """A WAV whose header says what it likes."""
    form = struct.pack(
        "<HHIIHH", 1, channels, rate, rate * channels * 2 & 0xFFFFFFFF, channels * 2 & 0xFFFF, 16
    )
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", claimed) + data
    return b"RIFF" + struct.pack("<I", 36 + min(claimed, 1 << 31)) + b"WAVE" + chunks


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans() -> bytes:
    """A JPEG whose last scan comes again and again, each of which decodes all pixels."""
    data = picture("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 64 + data[-2:]


def grey_16_bit(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0]), 40_000, dtype=np.uint16)).save(buffer, "PNG")
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


def png(width: int, height: int, *chunks: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    """A PNG whose header says what it likes, in 8-bit grey."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = zlib.compress(b"\0" * ((width + 1) * height)) if data is None else data
    parts = [header, *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 99, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + b"x" * 45
    )


def bomb() -> bytes:
    """As many pixels as are allowed, in a file of a thousandth."""
    return png(9_000, 9_000)


@functools.cache
def program() -> bytes:
    """PostScript, which is a program; Pillow has Ghostscript carry it out."""
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\n0 0 40 30 rectfill\nshowpage\n%%EOF\n"


# ---- the rows ----------------------------------------------------------------------------------------------

A_SECOND = sine(1.0)
NAN, INFINITE = A_SECOND.astype(np.float32), A_SECOND.astype(np.float32)
NAN[100], INFINITE[100] = np.nan, np.inf
FINE = content(sound(A_SECOND))
OUT = "leads out of the data folder"

PATHS: dict[str, Case] = {
    "no file": Case(nothing, "does not exist"),
    "a folder": Case(lambda path: path.mkdir(), "is no file"),
    "a link to itself": Case(lambda path: path.symlink_to(path), "does not exist"),
    "two links in a circle": Case(
        lambda path: (path.symlink_to(f"{path}.2"), Path(f"{path}.2").symlink_to(path)), "does not exist"
    ),
    "a link to nothing": Case(link("nowhere"), "does not exist"),
    "a link out": Case(link("/etc/hostname"), OUT),
    "a link to an endless device": Case(link("/dev/zero"), OUT),
    "a FIFO": Case(os.mkfifo, "is no file"),
    "no bytes": Case(content(b""), "is empty"),
    "above the folder": Case(nothing, OUT, {"file_name": "../../secret"}),
    "above in the middle": Case(nothing, OUT, {"file_name": "x/../../../secret"}),
    "an absolute path": Case(nothing, OUT, {"file_name": "/etc/hostname"}),
    "a file URL": Case(nothing, "does not exist", {"file_name": "file:///etc/hostname"}),
    "a web address": Case(nothing, "does not exist", {"file_name": "https://example.org/a"}),
    "a path of Windows": Case(nothing, "does not exist", {"file_name": "..\\..\\secret"}),
    "a device of Windows": Case(nothing, "does not exist", {"file_name": "C:\\secret"}),
    "a home folder": Case(nothing, "does not exist", {"file_name": "~/secret"}),
    "a name with NUL": Case(nothing, "expected the name of a file", {"file_name": "a\0b"}),
    "a name too long": Case(nothing, "does not exist", {"file_name": "x" * 5000}),
    "a name that is a number": Case(nothing, "expected the name of a file", {"file_name": 3}),
    "a name that is a list": Case(nothing, "expected the name of a file", {"file_name": ["a"]}),
    "a name that is null": Case(nothing, "names no file", {"file_name": None}),
    "a name that is empty": Case(nothing, "names no file", {"file_name": ""}),
    "a name of dots": Case(nothing, OUT, {"file_name": ".."}),
    "the folder itself": Case(nothing, "is no file", {"file_name": "."}),
}

LINES: dict[str, Case] = {
    "half a line": Case(nothing, "is not JSON", b'{"file_name": "a'),
    "a list": Case(nothing, "expected an object", b'["a", "b"]'),
    "a text": Case(nothing, "expected an object", b'"a"'),
    "null": Case(nothing, "expected an object", b"null"),
    "other encoding": Case(nothing, "is not text in UTF-8", '{"text": "café"}'.encode("latin-1")),
    "NUL bytes": Case(nothing, "is not JSON", b'{"a": "\0"}'),
    "raw control characters": Case(nothing, "is not JSON", b'{"a": "\x1b[2J"}'),
    "half a character": Case(nothing, "half a character", b'{"text": "\\ud83d"}'),
    "nested deeply": Case(nothing, "cannot be read", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "a number of many digits": Case(nothing, "cannot be read", b'{"a": ' + b"9" * 5_000 + b"}"),
    "an object without columns": Case(nothing, "no", b"{}"),
    "YAML": Case(nothing, "is not JSON", b"text: hello"),
}

CSV: dict[str, tuple[bytes, str]] = {
    "too many cells": (b"a,b,c,d,e", "cells under a header"),
    "other encoding": ("caf\xe9,x".encode("latin-1"), "is not text in UTF-8"),
    "text after a quote": (b'"a"b,x', "is not comma-separated text"),
    "too large a cell": (b'"' + b"x" * 140_000 + b'",x', "is not comma-separated text"),
    "one cell": (b"gone", "'gone' does not exist"),
    "NUL bytes": (b"a\0b,x", "expected the name of a file"),
}

WHISPER: dict[str, Case] = {
    "text null": Case(FINE, "the transcript is no text", {"text": None}),
    "text missing": Case(FINE, "the transcript is no text", {"text": ...}),
    "text a number": Case(FINE, "the transcript is no text", {"text": 12}),
    "text a list": Case(FINE, "the transcript is no text", {"text": ["a"]}),
    "text an object": Case(FINE, "the transcript is no text", {"text": {"en": "a"}}),
    "text empty": Case(FINE, "is empty", {"text": ""}),
    "text of spaces": Case(FINE, "is empty", {"text": " \t\n "}),
    "text of control characters": Case(FINE, USED, {"text": "\x00\x07\x1b"}),
    "text too long": Case(FINE, "tokens", {"text": "word " * 500}),
    "text very long": Case(FINE, "the transcript has 1,000,000 characters", {"text": "word " * 200_000}),
    "a special token in text": Case(FINE, USED, {"text": "hello <|endoftext|> there"}),
    "start no number": Case(FINE, "start: expected seconds", {"start": "soon"}),
    "start negative": Case(FINE, "start: expected seconds", {"start": -1}),
    "start a list": Case(FINE, "start: expected seconds", {"start": [1]}),
    "start huge": Case(FINE, "start: expected seconds", {"start": 10**400}),
    "start infinite": Case(FINE, "start: expected seconds", {"start": float("inf")}),
    "start behind the end": Case(FINE, "the row's part of it", {"start": 5}),
    "end before start": Case(FINE, "starts at", {"start": 0.5, "end": 0.2}),
    "end behind the end": Case(FINE, "the row's part of it", {"end": 7.5}),
    "language a number": Case(FINE, "the language is no text", {"language": 3}),
    "language unknown": Case(FINE, "is no language", {"language": "klingon"}),
    "language of another model": Case(FINE, "English-only", {"language": "de"}),
    "too long": Case(content(sound(sine(40.0))), "lasts 40 s, longer than"),
    "NaN": Case(content(sound(NAN, subtype="FLOAT")), "NaN or infinite"),
    "infinite": Case(content(sound(INFINITE, subtype="FLOAT")), "NaN or infinite"),
    "no samples": Case(content(sound(A_SECOND[:0])), "no samples"),
    "header cut off": Case(content(cut(sound(A_SECOND), 0.0005)), "is not audio"),
    "half a FLAC": Case(content(cut(sound(A_SECOND, kind="FLAC"))), "breaks off"),
    "a FLAC of a few bytes": Case(content(sound(A_SECOND, kind="FLAC")[:30]), "is not audio"),
    "a few bytes of OGG": Case(content(sound(A_SECOND, kind="OGG")[:40]), "is not audio"),
    "text": Case(content(b"hello"), "is not audio", suffix=".wav"),
    "a picture": Case(content(picture()), "is not audio", suffix=".wav"),
    "a program": Case(content(b"\x7fELF" + b"\0" * 500), "is not audio", suffix=".flac"),
    "gzip": Case(content(b"\x1f\x8b" + b"\0" * 500), "is not audio", suffix=".wav"),
    **{
        f"text named {ending}": Case(content(b"hello" * 500), "is not audio", suffix=f".{ending}")
        for ending in ("au", "snd", "vox", "gsm", "raw")
    },
    "named raw": Case(content(sound(A_SECOND)), "is not audio", suffix=".raw"),
    "half a WAV": Case(content(cut(sound(A_SECOND))), "is cut off: 0.499312 s of 1 s are there"),
    "half a RF64": Case(content(cut(sound(A_SECOND, kind="RF64"))), "is cut off"),
    "half a W64": Case(content(cut(sound(A_SECOND, kind="W64"))), "is cut off"),
    "half an AU": Case(content(cut(sound(A_SECOND, kind="AU"))), "is cut off"),
    "half an AIFF": Case(content(cut(sound(A_SECOND, kind="AIFF"))), "is cut off"),
    "hours by the header": Case(
        content(wav_header(claimed=0x7FFFFFFF, data=b"\0\0" * 800)), "is cut off: 0.05 s of 67108.9 s"
    ),
    "0 Hz": Case(content(wav_header(rate=0, claimed=1600, data=b"\0" * 1600)), "is not audio"),
    "4 GHz": Case(content(wav_header(rate=0xFFFFFFF0, claimed=1600, data=b"\0" * 1600)), "is not audio"),
    "no channel": Case(content(wav_header(channels=0, claimed=1600, data=b"\0" * 1600)), "is not audio"),
    "65535 channels": Case(
        content(wav_header(channels=65_535, claimed=1600, data=b"\0" * 1600)), "is not audio"
    ),
    # used
    "a stream's header": Case(content(wav_header(claimed=0xFFFFFFFF, data=b"\0\0" * 800)), USED),
    "a WAV without its last bytes": Case(content(cut(sound(A_SECOND), 0.95)), USED),
    "half an OGG": Case(content(cut(sound(A_SECOND, kind="OGG"))), "is not audio"),
    "half an MP3": Case(content(cut(sound(A_SECOND, kind="MP3"))), USED),
    "a WAV named au": Case(content(sound(A_SECOND)), USED, suffix=".au"),
    "an AU": Case(content(sound(A_SECOND, kind="AU")), USED, suffix=".au"),
    "a WAV named mp3": Case(content(sound(A_SECOND)), USED, suffix=".mp3"),
    "an MP3 named wav": Case(content(sound(A_SECOND, kind="MP3")), USED, suffix=".wav"),
    "no ending": Case(content(sound(A_SECOND, kind="FLAC")), USED),
    "silence": Case(content(sound(A_SECOND * 0)), USED),
    "a single sample": Case(content(sound(A_SECOND[:1])), USED),
    "8 kHz": Case(content(sound(sine(1.0, 8_000), 8_000)), USED),
    "192 kHz": Case(content(sound(sine(1.0, 192_000), 192_000)), USED),
    "an odd rate": Case(content(sound(sine(1.0, 11_127), 11_127)), USED),
    "8 channels": Case(content(sound(sine(1.0, channels=8))), USED),
    "24 bits": Case(content(sound(A_SECOND, subtype="PCM_24")), USED),
    "huge samples": Case(
        content(sound((A_SECOND * 1e30).astype(np.float32), subtype="FLOAT")), "where 1 is full volume"
    ),
    "a byte order mark in text": Case(FINE, USED, {"text": "\ufeffhello"}),
    "bidirectional text": Case(FINE, USED, {"text": "\u202ehello\u202c"}),
    "a cell too much": Case(FINE, USED, {"note": [1, {"a": None}]}),
    "start as text": Case(FINE, USED, {"start": "0.1", "end": "0.9"}),
    "the same": Case(FINE, USED),
    "the same again": Case(FINE, USED),
}

SEEN = content(picture())
CLIP: dict[str, Case] = {
    "caption null": Case(SEEN, "the caption is no text", {"caption": None}),
    "caption missing": Case(SEEN, "the caption is no text", {"caption": ...}),
    "caption a number": Case(SEEN, "the caption is no text", {"caption": 3}),
    "caption an object": Case(SEEN, "the caption is no text", {"caption": {"en": "a"}}),
    "caption empty": Case(SEEN, "the caption is empty", {"caption": ""}),
    "caption of spaces": Case(SEEN, "the caption is empty", {"caption": " \n"}),
    "no captions": Case(SEEN, "the caption is empty", {"caption": []}),
    "a caption without end": Case(SEEN, "the caption has 100,001 characters", {"caption": "a" * 100_001}),
    "one of the captions empty": Case(SEEN, "one of the captions is empty", {"caption": ["a", " "]}),
    "a caption in a list a number": Case(SEEN, "the caption is no text", {"caption": ["a", 3]}),
    "captions nested": Case(SEEN, "the caption is no text", {"caption": [["a"]]}),
    "text": Case(content(b"hello"), "is not an image", suffix=".png"),
    "sound": Case(content(sound(A_SECOND)), "is not an image", suffix=".png"),
    "SVG": Case(content(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "is not an image", suffix=".svg"),
    "PostScript": Case(content(program()), "is not an image", suffix=".png"),
    "HTML": Case(content(b"<html><script>alert(1)</script></html>"), "is not an image", suffix=".jpg"),
    "a progressive JPEG of many scans": Case(content(many_scans()), "is a progressive JPEG of 7"),
    "half a JPEG": Case(content(cut(picture("JPEG"))), "breaks off"),
    "half a PNG": Case(content(cut(picture("PNG"))), "breaks off"),
    "half a GIF": Case(content(cut(picture("GIF"))), "breaks off"),
    "half a WebP": Case(content(cut(picture("WEBP"))), "breaks off"),
    "half a TIFF": Case(content(cut(picture("TIFF"))), "breaks off"),
    "a few bytes of PNG": Case(content(picture()[:12]), "is not an image", suffix=".png"),
    "a few bytes of JPEG": Case(content(picture("JPEG")[:12]), "breaks off", suffix=".jpg"),
    "100k x 100k by the header": Case(content(png(100_000, 100_000, data=zlib.compress(b"\0"))), "pixels"),
    "BMP of 100k x 100k": Case(content(bmp(100_000, 100_000)), "pixels"),
    "BMP of 60k x 60k": Case(content(bmp(60_000, 60_000)), "pixels"),
    "BMP without pixels": Case(content(bmp(0, 0)), "is not an image"),
    "a PNG without pixels": Case(content(png(0, 0, data=zlib.compress(b"\0"))), "is not an image"),
    "fewer pixels than the header says": Case(
        content(png(400, 300, data=zlib.compress(b"\0"))), "breaks off"
    ),
    "a wrong checksum": Case(content(picture()[:-20] + b"\0" * 20), "breaks off"),
    "flipped bytes": Case(content(picture()[:60] + b"\xff" * 40 + picture()[100:]), "breaks off"),
    "text that inflates": Case(
        content(png(40, 30, (b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (200 << 20))))), "breaks off"
    ),
    "a line of pixels": Case(content(png(1, 5_000)), "times as long as wide"),
    "floats that are NaN": Case(
        lambda path: Image.fromarray(np.full((30, 40), np.nan, np.float32)).save(path, "TIFF"), "outside of"
    ),
    # used
    "a bomb of as many pixels as may be": Case(content(bomb()), USED),
    "a bomb of 16 bits": Case(content(grey_16_bit((9_000, 9_000))), USED),
    "a single pixel": Case(content(picture(size=(1, 1))), USED),
    "an animated GIF": Case(content(animated("GIF")), USED),
    "an animated WebP": Case(content(animated("WEBP")), USED),
    "an animated PNG": Case(content(animated("PNG")), USED),
    "a PNG named jpg": Case(content(picture()), USED, suffix=".jpg"),
    "a JPEG without ending": Case(content(picture("JPEG")), USED),
    "16 bits": Case(content(grey_16_bit()), USED),
    "CMYK": Case(content(picture("JPEG", "CMYK")), USED),
    "a palette": Case(content(picture("PNG", "P")), USED),
    "black and white": Case(content(picture("PNG", "1")), USED),
    "transparent": Case(content(picture("PNG", "RGBA")), USED),
    "Lab": Case(content(picture("TIFF", "LAB")), USED),
    "broken EXIF": Case(content(picture("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), USED),
    "a long caption": Case(SEEN, USED, {"caption": "a cat " * 10_000}),
    "several captions": Case(SEEN, USED, {"caption": ["a cat", "Felix"]}),
    "control characters in a caption": Case(SEEN, USED, {"caption": "a\x1b[31m cat\x00\u202e"}),
    "the same": Case(SEEN, USED),
    "the same again": Case(SEEN, USED),
}


def chat(*turns: Any) -> dict[str, Any]:
    return {"messages": list(turns)}


def turn(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


ASKED, ANSWERED = turn("user", "Hi"), turn("assistant", "Hello")
NOTHING_BEFORE = "nothing comes before the answer"
NO_LIST = "expected a list of"
CAUSAL_LM: dict[str, Case] = {
    "text null": Case(nothing, "the row is empty", {"text": None}),
    "text empty": Case(nothing, "the row is empty", {"text": ""}),
    "text of spaces": Case(nothing, "the text is empty", {"text": " \n\t"}),
    "text a number": Case(nothing, "the text is no text", {"text": 3}),
    "text a list": Case(nothing, "the text is no text", {"text": ["a"]}),
    "text an object": Case(nothing, "the text is no text", {"text": {"a": "b"}}),
    "text a truth": Case(nothing, "the text is no text", {"text": True}),
    "another column": Case(nothing, "the row is empty", {"txt": "hello"}),
    "completion a number": Case(nothing, "the completion is no text", {"prompt": "a", "completion": 4}),
    "completion null": Case(nothing, "the row is empty", {"prompt": "a", "completion": None}),
    "completion of spaces": Case(nothing, "the completion is empty", {"prompt": "a", "completion": "  "}),
    "prompt a list": Case(nothing, "the prompt is no text", {"prompt": ["a"], "completion": "b"}),
    "no turns": Case(nothing, "the row is empty", {"messages": []}),
    "turns a number": Case(nothing, NO_LIST, {"messages": 3}),
    "turns an object": Case(nothing, NO_LIST, {"messages": ASKED}),
    "turns a text": Case(nothing, NO_LIST, {"messages": "Hi"}),
    "turns that are texts": Case(nothing, NO_LIST, {"messages": ["Hi", "Hello"]}),
    "turns that are null": Case(nothing, NO_LIST, {"messages": [None]}),
    "turns in turns": Case(nothing, NO_LIST, {"messages": [[ASKED, ANSWERED]]}),
    "turns nested in a text": Case(nothing, NO_LIST, {"messages": "[" * 100_000}),
    "a digit too much in a text": Case(nothing, NO_LIST, {"messages": "9" * 5_000}),
    "no role": Case(nothing, "is no role", chat({"content": "Hi"}, ANSWERED)),
    "a wrong role": Case(nothing, "is no role", chat(turn("moderator", "Hi"), ANSWERED)),
    "a role that is a list": Case(nothing, "is no role", chat(turn(["user"], "Hi"), ANSWERED)),
    "a role that is an object": Case(nothing, "is no role", chat(turn({"a": 1}, "Hi"), ANSWERED)),
    "a role that is null": Case(nothing, "is no role", chat(turn(None, "Hi"), ANSWERED)),
    "content null": Case(nothing, "the content is no text", chat(ASKED, turn("assistant", None))),
    "content a number": Case(nothing, "the content is no text", chat(ASKED, turn("assistant", 3))),
    "content empty": Case(nothing, "turn is empty", chat(ASKED, turn("assistant", ""))),
    "content of spaces": Case(nothing, "turn is empty", chat(turn("user", " "), ANSWERED)),
    "content a picture": Case(nothing, "the content is no text", chat(turn("user", [{"type": "image"}]), ANSWERED)),
    "content an empty list": Case(nothing, "the content is no text", chat(turn("user", []), ANSWERED)),
    "nobody answers": Case(nothing, "no turn is the assistant's", chat(ASKED)),
    "only a system": Case(nothing, "no turn is the assistant's", chat(turn("system", "Be kind"))),
    # used
    "one word": Case(nothing, USED, {"text": "hello"}),
    "a long text": Case(nothing, USED, {"text": "hello there " * 20_000}),
    "a text of one long word": Case(nothing, USED, {"text": "x" * 50_000}),
    "control characters": Case(nothing, USED, {"text": "a\x00\x1b[2J\u202eb"}),
    "a byte order mark": Case(nothing, USED, {"text": "\ufeffhello"}),
    "special tokens in a text": Case(nothing, USED, chat(ASKED, turn("assistant", "<|im_end|></s><s>[INST]"))),
    "a template in a text": Case(nothing, USED, chat(turn("user", "{{ 1 // 0 }}{% raw %}"), ANSWERED)),
    "turns as JSON": Case(nothing, USED, {"messages": json.dumps([ASKED, ANSWERED])}),
    "content in parts": Case(nothing, USED, chat(turn("user", [{"type": "text", "text": "Hi"}]), ANSWERED)),
    "only an answer": Case(nothing, NOTHING_BEFORE, chat(ANSWERED)),
    "the answer first": Case(nothing, NOTHING_BEFORE, chat(ANSWERED, ASKED, ANSWERED)),
    "many turns": Case(nothing, USED, chat(*[ASKED, ANSWERED] * 60)),
    "keys too much": Case(nothing, USED, chat({**ASKED, "weight": [1, None]}, ANSWERED)),
    "the same": Case(nothing, USED, chat(ASKED, ANSWERED)),
    "the same again": Case(nothing, USED, chat(ASKED, ANSWERED)),
}  # fmt: skip


# ---- the runs ----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A task, the rows of its own, a row that is good, and where its folders have their tables."""

    task: str
    cases: dict[str, Case]
    good: dict[str, Any]
    good_file: Make | None
    header: bytes


KINDS = {
    "whisper": Kind("whisper-asr", {**PATHS, **LINES, **WHISPER}, {"text": "hello"}, FINE, b"file_name,text"),
    "clip": Kind(
        "clip-contrastive", {**PATHS, **LINES, **CLIP}, {"caption": "a cat"}, SEEN, b"file_name,caption"
    ),
    "causal-lm": Kind("causal-lm", {**LINES, **CAUSAL_LM}, chat(ASKED, ANSWERED), None, b"prompt,completion"),
}


class Outcome(NamedTuple):
    """Reasons by split and number of the row, and how many rows the run counts."""

    reasons: dict[tuple[str, int], str]
    counted: dict[str, int]
    names: list[str]


def lay_out(kind: Kind, root: Path) -> list[str]:
    """Good rows in `train`, the cases in lines in `test`, those of a csv in `validation`; the names of test's rows."""
    root.mkdir(parents=True)
    good = {**kind.good, "file_name": "good"} if kind.good_file else kind.good
    for split in ("train", "test", "validation") if kind.good_file else ():
        (root / split).mkdir()
        kind.good_file(root / split / "good")
    write = functools.partial(_write_table, kind, root)
    write("train", "jsonl", [json.dumps(good).encode()] * 2)
    write("test", "jsonl", [json.dumps(good).encode(), *_lines(kind, root / "test")])
    write(
        "validation",
        "csv",
        [kind.header, b"good,hello there", *(line for line, _ in CSV.values()), b"good,hello again"],
    )
    return ["good", *kind.cases]


def _write_table(kind: Kind, root: Path, split: str, ending: str, lines: list[bytes]) -> None:
    path = root / split / f"metadata.{ending}" if kind.good_file else root / f"{split}.{ending}"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines) + b"\n")


def _lines(kind: Kind, folder: Path) -> Iterator[bytes]:
    for number, case in enumerate(kind.cases.values()):
        if isinstance(case.row, bytes):
            yield case.row
            continue
        row = {"file_name": f"{number}{case.suffix}", **kind.good, **case.row} if kind.good_file else case.row
        if kind.good_file:
            case.make(folder / f"{number}{case.suffix}")
        yield json.dumps({key: value for key, value in row.items() if value is not ...}).encode()


@contextmanager
def bounded() -> Iterator[None]:
    """An end to memory and time, for what should take little of both."""
    importlib.import_module("toolkit.execution")  # libraries need room of their own

    def too_slow(*_: Any) -> None:
        raise TimeoutError(f"not done after {MOST_SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(MOST_SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


@functools.cache
def outcome(name: str, root: Path) -> Outcome:
    kind, place = KINDS[name], root / name
    names = lay_out(kind, place / "data")
    recipe = Recipe.load(kind.task).override(
        data={"source": str(place / "data"), "max_bad_fraction": 1.0},
        train={
            "max_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "no",
            "per_device_train_batch_size": 2,
        },
        eval={"before": False},
        cache={"enabled": False},
    )

    with bounded():
        finished = run(recipe, place / "run")
    lines = map(json.loads, (place / "run" / "quarantine.jsonl").read_text().splitlines())
    reasons = {(line["split"], line["row_id"]): line["reason"] for line in lines}
    shutil.rmtree(place / "data")
    return Outcome(reasons, finished.summary["rows"], names)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bad_rows")


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in KINDS[kind].cases])
def test_a_row_is_used_or_put_aside(kind: str, name: str, root: Path) -> None:
    found, case = outcome(kind, root), KINDS[kind].cases[name]
    reason = found.reasons.get(("test", found.names.index(name)))
    if case.reason is USED:
        assert reason is None
    else:
        assert reason is not None
        assert case.reason in reason
        assert len(reason) < 1000


@pytest.mark.parametrize("kind", ["whisper", "clip"])
@pytest.mark.parametrize("name", CSV)
def test_a_row_of_a_csv_is_put_aside(kind: str, name: str, root: Path) -> None:
    reason = outcome(kind, root).reasons["validation", 1 + list(CSV).index(name)]
    assert CSV[name][1] in reason
    assert len(reason) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_every_row_counts_once(kind: str, root: Path) -> None:
    found = outcome(kind, root)
    assert found.counted["quarantined"] == len(found.reasons)
    bad = sum(case.reason is not USED for case in KINDS[kind].cases.values())
    assert found.counted["test"] == 1 + len(KINDS[kind].cases) - bad
    assert found.counted["train"] == 2


def test_there_are_more_than_sixty_kinds() -> None:
    assert all(len(kind.cases) > 50 for kind in KINDS.values())
    assert len({name for kind in KINDS.values() for name in kind.cases}) > 150


# ---- rows in memory ----------------------------------------------------------------------------------------


def heard(array: Any, rate: Any = 16_000) -> dict[str, Any]:
    return {"audio": {"array": array, "sampling_rate": rate}, "text": "hello"}


IN_MEMORY: dict[str, tuple[str, dict[str, Any], str | None]] = {
    "NaN": ("whisper", heard(NAN[:, 0]), "NaN or infinite"),
    "infinite": ("whisper", heard(INFINITE[:, 0]), "NaN or infinite"),
    "too loud": ("whisper", heard(A_SECOND[:, 0] * 1e30), "where 1 is full volume"),
    "no samples": ("whisper", heard([]), "holds no samples"),
    "a number": ("whisper", heard(np.float32(3)), "holds no samples"),
    "three dimensions": ("whisper", heard(np.zeros((2, 2, 2))), "holds no samples"),
    "texts": ("whisper", heard(["a", "b"]), "not of floats"),
    "objects": ("whisper", heard([None, {}]), "not of floats"),
    "complex": ("whisper", heard(np.zeros(9, complex)), "not of floats"),
    "truths": ("whisper", heard(np.zeros(9, bool)), "not of floats"),
    "ragged": ("whisper", heard([[1.0], [1.0, 2.0]]), "no array of numbers"),
    "no rate": ("whisper", heard(A_SECOND[:, 0], None), "without its sampling_rate"),
    "rate 0": ("whisper", heard(A_SECOND[:, 0], 0), "without its sampling_rate"),
    "rate below 0": ("whisper", heard(A_SECOND[:, 0], -16_000), "sampling rate is -16000"),
    "a rate of words": ("whisper", heard(A_SECOND[:, 0], "fast"), "sampling_rate"),
    "a rate of many": ("whisper", heard(A_SECOND[:, 0], [16_000]), "sampling_rate"),
    "a rate that is infinite": ("whisper", heard(A_SECOND[:, 0], float("inf")), "sampling_rate"),
    "bytes of none": ("whisper", {"audio": {"bytes": b"", "path": "a"}, "text": "hello"}, "is empty"),
    "bytes of text": (
        "whisper",
        {"audio": {"bytes": b"hello", "path": None}, "text": "hello"},
        "is not audio",
    ),
    "bytes that are text": (
        "whisper",
        {"audio": {"bytes": "hello", "path": None}, "text": "hello"},
        "cannot be read",
    ),
    "nothing in it": ("whisper", {"audio": {}, "text": "hello"}, "cannot be read"),
    "sound null": ("whisper", {"audio": None, "text": "hello"}, "cannot be read"),
    "sound a number": ("whisper", {"audio": 3, "text": "hello"}, "cannot be read"),
    "a path with NUL": ("whisper", {"audio": "a\0b", "text": "hello"}, "does not exist"),
    "a path too long": ("whisper", {"audio": "x" * 9_000, "text": "hello"}, "does not exist"),
    "whole numbers": ("whisper", heard((A_SECOND[:, 0] * 30_000).astype(np.int16)), USED),
    "two channels": ("whisper", heard(sine(1.0, channels=2).T), USED),
    "a list": ("whisper", heard(A_SECOND[:, 0].tolist()), USED),
    "a picture of words": (
        "clip",
        {"image": {"bytes": b"hello", "path": None}, "caption": "a"},
        "is not an image",
    ),
    "a picture of none": ("clip", {"image": {"bytes": b"", "path": None}, "caption": "a"}, "is empty"),
    "bytes that are words": (
        "clip",
        {"image": {"bytes": "hello", "path": None}, "caption": "a"},
        "cannot be read",
    ),
    "image null": ("clip", {"image": None, "caption": "a"}, "cannot be read"),
    "image an array": ("clip", {"image": np.zeros((3, 3)), "caption": "a"}, "cannot be read"),
    "image a path with NUL": ("clip", {"image": "a\0b", "caption": "a"}, "does not exist"),
    "image a path too long": ("clip", {"image": "x" * 9_000, "caption": "a"}, "does not exist"),
    "image of none": ("clip", {"image": Image.new("RGB", (0, 0)), "caption": "a"}, "has no pixels"),
    "image given": ("clip", {"image": Image.new("RGBA", (40, 30)), "caption": "a"}, USED),
}


@functools.cache
def preparer(kind: str) -> Callable[[Any], Any]:
    from toolkit.plugins import Plugins

    plugins = Plugins(Recipe.load(KINDS[kind].task).resolved())
    return plugins.prepare(plugins.model()()[1])


@pytest.mark.parametrize(("kind", "row", "reason"), IN_MEMORY.values(), ids=IN_MEMORY)
def test_a_row_in_memory(kind: str, row: dict[str, Any], reason: str | None) -> None:
    from toolkit.data.rows import PreparedRows

    with bounded():
        fetched = PreparedRows("test", [row], [0], preparer(kind))[0]
    if reason is USED:
        assert fetched.row is not None
    else:
        assert reason in fetched.bad[0].reason
