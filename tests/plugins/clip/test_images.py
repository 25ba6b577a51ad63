"""Images of all kinds, good and bad."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toolkit_clip.images import MAX_PIXELS, content_of, name_of, open_rgb

from toolkit import DataError

Picture = Callable[..., Image.Image]
Write = Callable[..., Path]


def pixels(source: Any) -> Any:
    return np.asarray(open_rgb(source)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF"])
def test_files_bytes_and_objects_are_the_same(kind: str, picture: Picture, write: Write) -> None:
    image = picture(20, 12)
    path = write(
        f"a.{kind.lower()}", image.quantize(64) if kind == "GIF" else image, format=kind, lossless=True
    )
    found = pixels(str(path))
    assert found.shape == (12, 20, 3)
    assert kind == "GIF" or (found == np.asarray(image)).all()
    assert (pixels(path) == found).all()
    assert (pixels({"bytes": path.read_bytes(), "path": None}) == found).all()
    assert (pixels({"bytes": None, "path": str(path)}) == found).all()
    assert (pixels(Image.open(path)) == found).all()


def test_a_file_that_changes_is_read_again(picture: Picture, write: Write) -> None:
    path = write("a.png", picture(8, 8, 1))
    first = pixels(path)
    write("a.png", picture(8, 8, 2))
    assert (pixels(path) != first).any()


@pytest.mark.parametrize("turn", range(1, 9))
def test_it_is_turned_as_exif_says(turn: int, write: Write) -> None:
    """Against Pillow's own `exif_transpose`."""
    from PIL import ImageOps

    image = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3))
    exif = Image.Exif()
    exif[0x0112] = turn
    path = write("a.png", image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(path))
    assert (pixels(path) == np.asarray(expected)).all()
    assert pixels(path).shape == ((4, 6, 3) if turn > 4 else (6, 4, 3))


def test_exif_that_cannot_be_read_turns_nothing(picture: Picture, write: Write) -> None:
    image = picture(8, 8)
    path = write("a.png", image, exif=b"Exif\0\0no such thing")
    assert (pixels(path) == np.asarray(image)).all()


def test_what_is_transparent_is_white(write: Write) -> None:
    layered = np.zeros((1, 3, 4), dtype=np.uint8)
    layered[0] = [[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]  # opaque, clear, a fifth
    expected = [[10, 20, 30], [255, 255, 255], [204, 204, 204]]
    assert pixels(write("rgba.png", Image.fromarray(layered)))[0].tolist() == expected
    grey = Image.fromarray(layered[..., [0, 3]])
    assert grey.mode == "LA"
    assert pixels(write("la.png", grey))[0].tolist() == [[10] * 3, [255] * 3, [204] * 3]
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 1, 2, 3])
    palette.putdata([0, 1])
    assert pixels(write("p.png", palette, transparency=1))[0].tolist() == [[9, 8, 7], [255, 255, 255]]
    plain = Image.fromarray(layered[..., :3])
    keyed = write("key.png", plain, transparency=(0, 0, 0))
    assert pixels(keyed)[0].tolist() == [[10, 20, 30], [10, 20, 30], [255, 255, 255]]


def test_sixteen_bits_become_eight(write: Write) -> None:
    """0, a half and all of the range; Pillow alone makes everything above 255 white."""
    deep = np.array([[0, 32_896, 65_535, 257]], dtype=np.uint16)
    for name in ("a.png", "a.tiff"):
        assert pixels(write(name, Image.fromarray(deep)))[0, :, 0].tolist() == [0, 128, 255, 1]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32))
    assert pixels(write("f.tiff", floats))[0, :, 0].tolist() == [0, 128, 255]
    wide = write("i.tiff", Image.fromarray(np.array([[0, 70_000]], dtype=np.int32)))
    with pytest.raises(DataError, match=r"i\.tiff holds values outside of 0 to 65535"):
        open_rgb(wide)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "L", "1", "P", "HSV"])
def test_other_colour_spaces_become_rgb(mode: str, picture: Picture, write: Write) -> None:
    image = picture(16, 16).convert(mode)
    suffix = {"CMYK": "tiff", "YCbCr": "tiff"}.get(mode, "png")
    path = image if mode == "HSV" else write(f"a.{suffix}", image)
    assert (pixels(path) == np.asarray(image.convert("RGB"))).all()


def test_of_an_animation_the_first_frame_is_taken(write: Write) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.webp"):
        path = write(name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
        assert pixels(path)[0, 0].tolist() == [255, 0, 0]


def header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_headers_that_claim_too_much_are_not_believed(tmp_path: Path) -> None:
    for side in (9_500, 30_000):  # Pillow warns at the one and raises at the other
        (tmp_path / "bomb.png").write_bytes(header(side, side))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            with pytest.raises(DataError) as caught:
                open_rgb(str(tmp_path / "bomb.png"))
        assert caught.value.message.endswith(
            f"bomb.png has more than {MAX_PIXELS:,} pixels, or its header says so"
        )
        assert not said
    (tmp_path / "thread.png").write_bytes(header(5_000, 3))
    with pytest.raises(DataError, match=r"is 5000 x 3 pixels, more than 100 times as long as wide"):
        open_rgb(str(tmp_path / "thread.png"))
    (tmp_path / "lie.png").write_bytes(header(300, 300))
    with pytest.raises(DataError, match=r"lie\.png breaks off or is damaged"):
        open_rgb(str(tmp_path / "lie.png"))


def test_an_image_in_memory_is_measured_too() -> None:
    with pytest.raises(DataError, match="an image of type Image is 5000 x 3 pixels"):
        open_rgb(Image.new("RGB", (5_000, 3)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_every_cut_and_many_a_flipped_byte_is_told(kind: str, picture: Picture) -> None:
    """Each either reads or is a DataError; cut in the middle, it never reads."""
    buffer = io.BytesIO()
    picture(40, 40).save(buffer, kind)
    whole = buffer.getvalue()
    generator = np.random.default_rng(0)
    with pytest.raises(DataError):
        open_rgb({"bytes": whole[: len(whole) // 2], "path": "half"})
    for length in range(1, len(whole), max(len(whole) // 20, 1)):
        read_or_told(whole[:length])
    for place in generator.integers(0, len(whole), 40):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        read_or_told(bytes(changed))


def read_or_told(data: bytes) -> None:
    with contextlib.suppress(DataError):
        assert open_rgb({"bytes": data, "path": "odd"}).mode == "RGB"


def test_what_is_no_image_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("a cat")
    expected = {
        "none.png": "none.png is empty",
        "text.png": "text.png is not an image that can be read",
        "missing.png": "missing.png does not exist",
        ".": f"{tmp_path} is no file",
    }
    for name, message in expected.items():
        with pytest.raises(DataError) as caught:
            open_rgb(str(tmp_path / name))
        assert caught.value.message.endswith(message)
    for odd in ({"bytes": b"", "path": "a.png"}, 3, None, {"path": None}):
        with pytest.raises(DataError):
            open_rgb(odd)
    assert name_of({"bytes": b"x", "path": None}) == "an image without a path"


def test_what_tells_files_apart(write: Any, picture: Any, tmp_path: Path) -> None:
    path = write("a.png", picture(8, 8))
    content = content_of(str(path))
    assert content == content_of(path) == content_of({"bytes": path.read_bytes(), "path": "b.png"})
    assert content == content_of({"bytes": None, "path": str(path)})
    assert content != content_of(write("a.png", picture(8, 8, 1)))
    nothing = [
        tmp_path,
        "missing.png",
        "a\0b",
        "long" * 2000,
        "\ud800",
        picture(8, 8),
        {"bytes": 3},
        {"bytes": "", "path": str(path)},
        {"bytes": str(path), "path": None},
        {},
        None,
    ]
    assert [content_of(one) for one in nothing] == [None] * len(nothing)
