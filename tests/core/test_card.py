from __future__ import annotations

from typing import Any

from toolkit import Recipe
from toolkit.card import card


def lines(recipe: Recipe, after: dict[str, float]) -> list[str]:
    summary: dict[str, Any] = {
        "rows": {"train": 7, "validation": 0, "test": 3},
        "train": {"steps": 5, "epochs": 2.0},
        "before": {},
        "after": after,
    }
    return card(recipe, summary).splitlines()


def test_code_spans_show_text_as_it_is() -> None:
    recipe = Recipe(name="mine", model={"name": "a_b/c", "revision": "v_1"}, data="/home/u/my_recordings")
    found = lines(recipe, {})
    assert "- Base model: `a_b/c`, revision `v_1`" in found
    assert "- Data: `/home/u/my_recordings`, 7 rows" in found


def test_nothing_breaks_out_of_a_code_span() -> None:
    assert "- Data: `a' <b> c`, 7 rows" in lines(Recipe(name="mine", model="m", data="a` <b>\nc"), {})


def test_names_cannot_break_headings_or_the_table() -> None:
    found = lines(Recipe(name="mine_1", model="x/<b>*m", data="d"), {"a|b": 1.0, "wer_raw": 0.25})
    assert "# \\<b\\>\\*m, fine-tuned for mine\\_1" in found
    assert "| a\\|b |  | 1.0000 |" in found
    assert "| wer\\_raw |  | 0.2500 |" in found
