"""The model card: what was trained from what, on which data, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.recipe import Recipe
from toolkit.yaml12 import write_yaml


def write_card(folder: Path, recipe: Recipe, summary: Mapping[str, Any]) -> None:
    """Write README.md beside the weights."""
    (folder / "README.md").write_text(card(recipe, summary), encoding="utf-8")


def card(recipe: Recipe, summary: Mapping[str, Any]) -> str:
    """A card in Markdown, with the front matter that the hub reads."""
    front = {
        "library_name": "transformers" if recipe.adapter is None else "peft",
        "tags": [recipe.name, "task-toolkit", *(["lora"] if recipe.adapter is not None else [])],
    }
    rows = summary["rows"]
    return f"""---
{write_yaml(front)}---

# {_escaped(Path(recipe.model.name).name)}, fine-tuned for {_escaped(recipe.name)}

| | before | after |
|---|---|---|
{_metric_rows(summary)}

Measured on {rows["test"] or rows["validation"]} rows that were not trained on.

- Base model: {_code(recipe.model.name)}{f", revision {_code(recipe.model.revision)}" if recipe.model.revision else ""}
- Data: {_code(recipe.data.source)}, {rows["train"]} rows
- Training: {summary["train"]["steps"]} steps, {summary["train"]["epochs"]:g} epochs

## Recipe

```yaml
{write_yaml(recipe.as_dict()).replace("```", "'''")}```
"""


def _metric_rows(summary: Mapping[str, Any]) -> str:
    before, after = summary["before"], summary["after"]
    return "\n".join(
        f"| {_escaped(name)} | {_number(before.get(name))} | {_number(value)} |"
        for name, value in after.items()
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _escaped(text: str) -> str:
    """Text from outside as Markdown shows it, whatever it contains."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" else char for char in _line(text))


def _code(text: str) -> str:
    """Text from outside in a code span, where a backslash stands for itself."""
    return "`" + _line(text).replace("`", "'") + "`"


def _line(text: str) -> str:
    return " ".join(text.splitlines())
