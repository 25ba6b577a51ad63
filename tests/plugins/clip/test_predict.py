"""Images and captions on the command line of `toolkit predict`."""

from __future__ import annotations

from typing import Any

import pytest
from toolkit_clip.predict import Matcher

from toolkit import DataError


def test_each_image_has_every_caption_the_best_first(nano: Any, rows: Any) -> None:
    one, two = (row["image"] for row in rows(2))
    found = Matcher(*nano)(["a cat", one, "a dog", two, "a cat"])
    assert list(found) == [one, two]
    for captions in found.values():
        assert {pair["caption"] for pair in captions} == {"a cat", "a dog"}
        assert captions[0]["score"] >= captions[1]["score"]
        assert all(-1 <= pair["score"] <= 1 for pair in captions)


def test_many_are_taken_a_few_at_a_time(nano: Any, rows: Any) -> None:
    images = [row["image"] for row in rows(20)]
    together = Matcher(*nano)([*images, "a cat"])
    alone = Matcher(*nano)([images[17], "a cat"])
    assert together[images[17]][0]["score"] == pytest.approx(alone[images[17]][0]["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a cat"], "no image was given, only captions"),
        (["IMAGE"], "no caption was given, only images"),
        (["IMAGE", "missing.png", "a cat"], "missing.png does not exist"),
        (["IMAGE", "  "], "the caption is empty"),
    ],
)
def test_what_is_missing_is_said(nano: Any, rows: Any, inputs: list[str], message: str) -> None:
    image = rows(1)[0]["image"]
    with pytest.raises(DataError) as caught:
        Matcher(*nano)([image if one == "IMAGE" else one for one in inputs])
    assert caught.value.message == message
    assert "toolkit predict" in str(caught.value.hint) or "given" not in message
