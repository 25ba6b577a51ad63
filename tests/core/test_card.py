from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from toolkit import Recipe
from toolkit.card import card, write_card

SUMMARY: dict[str, Any] = {
    "rows": {"train": 7, "validation": 0, "test": 3, "quarantined": 0},
    "train": {"steps": 5, "epochs": 2.0, "seconds": 61.4},
    "before": {},
    "after": {},
}


def lines(recipe: Recipe, after: dict[str, float]) -> list[str]:
    return card(recipe, {**SUMMARY, "after": after}, {}, is_adapter=False).splitlines()


def front_matter(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])  # type: ignore[no-any-return]


def test_code_spans_show_text_as_it_is() -> None:
    recipe = Recipe(name="mine", model={"name": "a_b/c", "revision": "v_1"}, data="/home/u/my_recordings")
    found = lines(recipe, {})
    assert "- Base model: `a_b/c`, revision `v_1`" in found
    assert "- Data: `/home/u/my_recordings`; rows: 7 train, 3 test" in found


def test_nothing_breaks_out_of_a_code_span() -> None:
    found = lines(Recipe(name="mine", model="m", data="a` <b>\nc"), {})
    assert "- Data: `a' <b> c`; rows: 7 train, 3 test" in found


def test_names_cannot_break_headings_or_the_table() -> None:
    found = lines(Recipe(name="mine_1", model="x/<b>*m", data="d"), {"a|b": 1.0, "wer_raw": 0.25})
    assert "# \\<b\\>\\*m, fine-tuned for mine\\_1" in found
    assert "| a\\|b |  | 1.0000 |" in found
    assert "| wer\\_raw |  | 0.2500 |" in found


def test_names_make_no_links_and_steer_no_terminal() -> None:
    found = lines(Recipe(name="mine", model="x/www.evil.org\x1b[31m\u202e", data="d\x1b[2J"), {})
    assert "# www\\.evil\\.org\\\\x1b\\[31m\\\\x202e, fine-tuned for mine" in found
    assert "- Data: `d\\x1b[2J`; rows: 7 train, 3 test" in found
    assert not [line for line in found if "\x1b" in line or "\u202e" in line]


def test_the_hub_is_told_what_it_can_look_up() -> None:
    recipe = Recipe(name="mine", model="openai/whisper-small", data="acme/talks", adapter={"r": 4})
    text = card(recipe, {**SUMMARY, "after": {"loss": 1.0, "wer": 0.5}}, {}, is_adapter=True)
    assert front_matter(text) == {
        "library_name": "peft",
        "base_model": "openai/whisper-small",
        "datasets": ["acme/talks"],
        "metrics": ["loss", "wer"],
        "tags": ["mine", "task-toolkit", "lora"],
    }
    merged = front_matter(card(recipe, SUMMARY, {}, is_adapter=False))
    assert merged["library_name"] == "transformers"
    assert "license" not in merged


def test_folders_are_no_ids_of_the_hub() -> None:
    facts = front_matter(
        card(Recipe(name="mine", model="/m/base", data="/d/talks"), SUMMARY, {}, is_adapter=False)
    )
    assert set(facts) == {"library_name", "metrics", "tags"}


def test_where_it_came_from() -> None:
    environment = {
        "packages": {"torch": "2.14.1", "numpy": "2.4.6", "task-toolkit": "0.1.0"},
        "data_fingerprint": "0123456789abcdef",
        "base_model": {"name": "a/b", "revision": None, "commit": "c" * 40},
    }
    summary = {**SUMMARY, "rows": {**SUMMARY["rows"], "quarantined": 2}}
    found = card(
        Recipe(name="mine", model="a/b", data="d"), summary, environment, is_adapter=False
    ).splitlines()
    assert f"- Base model: `a/b`, commit `{'c' * 40}`" in found
    assert (
        "- Data: `d`, fingerprint `0123456789abcdef`; rows: 7 train, 3 test, 2 that could not be used"
        in found
    )
    assert "- Training: 5 steps, 2 epochs, 61 s" in found
    assert "- Made with: task-toolkit 0\\.1\\.0, torch 2\\.14\\.1" in found
    assert "It was not measured: there were no rows that it was not trained on." in found


def test_an_adapter_that_was_trained_further_is_one(tmp_path: Path) -> None:
    """Its recipe asks for none: it comes with the model."""
    (tmp_path / "adapter_config.json").write_text("{}")
    write_card(tmp_path, Recipe(name="mine", model="acme/adapter"), SUMMARY, {})
    text = (tmp_path / "README.md").read_text()
    assert front_matter(text)["library_name"] == "peft"
    assert "An adapter, which `peft` puts on the base model" in text
