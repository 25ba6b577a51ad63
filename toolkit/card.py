"""The model card: what was trained from what, on which data, and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit import hub
from toolkit.model_files import ADAPTER_CONFIG
from toolkit.notices import printable
from toolkit.recipe import Recipe
from toolkit.yaml12 import write_yaml

_SPECIAL = "\\`*_[]<>|#~&:@."
_SHOWN_PACKAGES = ("task-toolkit", "transformers", "peft", "torch")


def write_card(
    folder: Path,
    recipe: Recipe,
    summary: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Write README.md beside the weights, which are an adapter or not whatever the recipe says of one."""
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    text = card(recipe, summary, environment, is_adapter=is_adapter)
    (folder / "README.md").write_text(text, encoding="utf-8")


def card(
    recipe: Recipe, summary: Mapping[str, Any], environment: Mapping[str, Any], *, is_adapter: bool
) -> str:
    """A card in Markdown, with the front matter that the hub reads; a license, which is not known, is not named.

    Args:
        summary, environment: as in the run's folder.
        is_adapter: the weights are one, as where an adapter was made by the run, or trained further; not once merged.
    """
    return f"""---
{printable(write_yaml(_front_matter(recipe, summary, is_adapter)))}---

# {_escaped(Path(recipe.model.name).name)}, fine-tuned for {_escaped(recipe.name)}

{_how_to_load(recipe, is_adapter)}

{_results(summary)}

- Base model: {_base(recipe, environment)}
- Data: {_data(recipe, summary, environment)}
- Training: {_training(summary)}
- Made with: {_versions(environment)}

## Recipe

```yaml
{printable(write_yaml(recipe.as_dict())).replace("```", "'''")}```
"""


def _front_matter(recipe: Recipe, summary: Mapping[str, Any], is_adapter: bool) -> dict[str, Any]:
    places = {"base_model": recipe.model.name, "datasets": recipe.data.source}
    on_hub = {key: place for key, place in places.items() if _may_be_on_hub(place)}
    return {
        "library_name": "peft" if is_adapter else "transformers",
        **({"base_model": on_hub["base_model"]} if "base_model" in on_hub else {}),
        **({"datasets": [on_hub["datasets"]]} if "datasets" in on_hub else {}),
        "metrics": list(summary["after"]),
        "tags": [
            recipe.name,
            "task-toolkit",
            *(["lora"] if is_adapter or recipe.adapter is not None else []),
        ],
    }


def _may_be_on_hub(place: str) -> bool:
    return hub.ID.fullmatch(place) is not None and "/" in place


def _how_to_load(recipe: Recipe, is_adapter: bool) -> str:
    if is_adapter:
        return "An adapter, which `peft` puts on the base model that `transformers` loads."
    if recipe.adapter is None:
        return "All weights, which `transformers` loads."
    return "All weights, with the trained adapter merged into them; `transformers` loads them without `peft`."


def _results(summary: Mapping[str, Any]) -> str:
    if not summary["after"]:
        return "It was not measured: there were no rows that it was not trained on."
    rows = summary["rows"]
    lines = [
        f"| {_escaped(name)} | {_number(summary['before'].get(name))} | {_number(value)} |"
        for name, value in summary["after"].items()
    ]
    measured = f"Measured on {rows['test'] or rows['validation']} rows that were not trained on."
    return "\n".join(["| | before | after |", "|---|---|---|", *lines, "", measured])


def _base(recipe: Recipe, environment: Mapping[str, Any]) -> str:
    recorded = environment.get("base_model", {})
    return _facts(
        recipe.model.name,
        {
            "revision": recipe.model.revision,
            "commit": recorded.get("commit"),
            "SHA-256 of its weights": recorded.get("sha256"),
        },
    )


def _data(recipe: Recipe, summary: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    rows = summary["rows"]
    counts = [f"{rows[split]} {split}" for split in ("train", "validation", "test") if rows[split]]
    unused = f", {rows['quarantined']} that could not be used" if rows["quarantined"] else ""
    facts = {"configuration": recipe.data.config, "fingerprint": environment.get("data_fingerprint")}
    return f"{_facts(recipe.data.source, facts)}; rows: {', '.join(counts)}{unused}"


def _training(summary: Mapping[str, Any]) -> str:
    train = summary["train"]
    return f"{train['steps']} steps, {train['epochs']:g} epochs, {train['seconds']:.0f} s"


def _versions(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    return ", ".join(
        f"{name} {_escaped(str(packages[name]))}" for name in _SHOWN_PACKAGES if name in packages
    )


def _facts(name: str, facts: Mapping[str, Any]) -> str:
    known = [f"{what} {_code(str(value))}" for what, value in facts.items() if value]
    return ", ".join([_code(name), *known])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _escaped(text: str) -> str:
    """Text from outside as Markdown shows it, whatever it contains."""
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in _line(text))


def _code(text: str) -> str:
    """Text from outside in a code span, where a backslash stands for itself."""
    return "`" + _line(text).replace("`", "'") + "`"


def _line(text: str) -> str:
    return " ".join(printable(text).splitlines())
