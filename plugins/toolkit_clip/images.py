"""Images in any file that Pillow reads, or in memory, as RGB."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from toolkit import DataError

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485
"""What a header may claim, else the image is not decoded: Pillow's own limit, 256 MB in RGB."""
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP")
"""What is read. Pillow knows more, among them PostScript, for which it starts another program."""
_AGAIN = "copy or export it again, or take the row out"
START_OF_SCAN, MAX_SCANS = b"\xff\xda", 64
"""Of a progressive JPEG, each as long a way through all of its pixels; cameras and programs make ten or so."""
MAX_RATIO = 100
"""Of the long side to the short one. The long one grows with it as the short one is brought to the model's size."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def name_of(source: Any) -> str:
    """What errors call a row's image."""
    if isinstance(source, Mapping):
        source = source.get("path") or "an image without a path"
    return str(source) if isinstance(source, str | Path) else f"an image of type {type(source).__name__}"


@contextmanager
def opened(source: Any) -> Iterator[Image.Image]:
    """The image that a row holds, its header read and found plausible, nothing decoded.

    Args:
        source: a path; `{"bytes", "path"}` as in undecoded rows of the hub; or a `PIL.Image.Image`.
    Raises:
        DataError: missing, empty, no image, of too many pixels or too narrow; also for whatever goes wrong in the
            block as the image is decoded.
    """
    name = name_of(source)
    readable = _readable(name, source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with readable if isinstance(readable, Image.Image) else _open(readable) as image:
                _check_size(name, *image.size)
                _check_scans(name, image, readable)
                yield image
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise _too_large(name) from None
    except UnidentifiedImageError:
        raise DataError(
            f"{name} is not an image that can be read", hint="give PNG, JPEG or WebP, for example"
        ) from None
    except Exception as error:  # of many kinds: decoders stumble in as many ways as files are broken
        raise DataError(f"{name} breaks off or is damaged ({_said(error)})", hint=_AGAIN) from None


def content_of(source: Any) -> str | None:
    """A digest of an image's file, or of its bytes; None for one in memory, or a file that cannot be read."""
    if isinstance(source, Mapping):
        data = source.get("bytes")
        if data is not None:
            return hashlib.sha256(data).hexdigest() if isinstance(data, bytes) else None
        source = source.get("path")
    if not isinstance(source, str | Path) or not os.path.isfile(source):  # noqa: PTH113 (no NUL stops it)
        return None
    try:
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def open_rgb(source: Any) -> Image.Image:
    """A whole image, upright, in 8-bit RGB; not to be changed.

    It is turned as its EXIF orientation says; what is transparent becomes white; 16 bits become 8; of an animation
    the first frame is taken. The last one is kept, for `Augment` asks again for what `Prepare` has just read.

    Raises:
        DataError: see `opened`.
    """
    if isinstance(source, str | Path) and os.path.isfile(source):  # noqa: PTH113
        return _kept(str(source), None, Path(source).stat().st_mtime_ns)
    if isinstance(source, Mapping) and isinstance(source.get("bytes"), bytes):
        return _kept(name_of(source), source["bytes"], 0)
    return _decoded(source)


@functools.lru_cache(maxsize=1)
def _kept(path: str, data: bytes | None, stamp: int) -> Image.Image:
    return _decoded({"path": path, "bytes": data})


def _decoded(source: Any) -> Image.Image:
    with opened(source) as image:
        image.load()
        return _on_white(_eight_bits(name_of(source), _upright(image)))


# ---- files and memory -------------------------------------------------------------------------------------


def _readable(name: str, source: Any) -> Any:
    """What Pillow can open: an existing file with something in it, bytes, or an image already."""
    if isinstance(source, Image.Image):
        return source.copy()
    if isinstance(source, Mapping):
        data = source.get("bytes")
        if data is not None and not data:
            raise DataError(f"{name} is empty", hint=_AGAIN)
        held = io.BytesIO(data) if isinstance(data, bytes) else None
        source = source.get("path") if data is None else held
    if isinstance(source, io.BytesIO):
        return source
    if not isinstance(source, str | Path):
        raise DataError(
            f"{name} cannot be read",
            hint="expected a path, {'bytes': ..., 'path': ...} or a PIL.Image.Image",
        )
    if not os.path.isfile(source):  # noqa: PTH113 (pathlib raises where a name is too long)
        missing = "is no file" if os.path.lexists(source) else "does not exist"
        raise DataError(f"{name} {missing}", hint="check the path; it counts from the folder you are in")
    if not Path(source).stat().st_size:
        raise DataError(f"{name} is empty", hint=_AGAIN)
    return source


def _open(readable: Any) -> Image.Image:
    return Image.open(readable, formats=FORMATS)


def _check_size(name: str, width: int, height: int) -> None:
    if not width or not height:
        raise DataError(f"{name} has no pixels: it is {width} x {height}", hint=_AGAIN)
    if width * height > MAX_PIXELS:
        raise _too_large(name)
    if max(width, height) > MAX_RATIO * min(width, height):
        raise DataError(
            f"{name} is {width} x {height} pixels, more than {MAX_RATIO} times as long as wide",
            hint="cut out the part that the caption speaks of",
        )


def _check_scans(name: str, image: Image.Image, readable: Any) -> None:
    """A scan may be a hundred bytes, and takes as long as any."""
    if image.format != "JPEG" or not image.info.get("progressive"):
        return
    data = readable.getvalue() if isinstance(readable, io.BytesIO) else Path(readable).read_bytes()
    if (scans := data.count(START_OF_SCAN)) > MAX_SCANS:
        raise DataError(
            f"{name} is a progressive JPEG of {scans} scans, more than {MAX_SCANS}", hint="export it again"
        )


def _too_large(name: str) -> DataError:
    return DataError(
        f"{name} has more than {MAX_PIXELS:,} pixels, or its header says so",
        hint="make it smaller; models look at a few hundred pixels a side",
    )


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:100]


# ---- to RGB ---------------------------------------------------------------------------------------------


def _upright(image: Image.Image) -> Image.Image:
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """How the image is to be turned, 1 for not at all, also where its EXIF cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of many kinds; the pixels are fine all the same
        return 1


def _eight_bits(name: str, image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits brought down to 8; Pillow would clip it, which makes most of it white."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.array(image, dtype=np.float32)  # exact up to 24 bits
    most = 1.0 if image.mode == "F" else 65_535.0
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= most):
        raise DataError(f"{name} holds values outside of 0 to {most:g}", hint="save it with 8 or 16 bits")
    np.rint(np.multiply(values, 255 / most, out=values), out=values)
    return Image.fromarray(values.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")
