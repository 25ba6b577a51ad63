"""The plugin's section of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from toolkit import Recipe, RecipeError


@dataclass(frozen=True)
class CausalLMSettings:
    """Which tokens of a row to learn from, how rows become sequences, and how text is generated.

    Attributes:
        loss_on: `completions`, where a row has them (the turns of the assistant, or `completion`, with the token that
            ends each), or `all` tokens.
        as_chat: `prompt` and `completion` are a user's and an assistant's turn in the chat template, and `predict`
            takes its inputs for such prompts; else they are joined as they stand.
        max_length: most tokens of a sequence; by default as many as the model takes, but no more than 2048.
        too_long: what becomes of a longer row: `truncate` it after so many tokens, `split` it into several sequences
            that each begin with the last token of the one before, or `drop` it as one that cannot be used.
        packing: lay the rows of a batch behind one another in sequences of up to `max_length`, so that little is
            padding. Nothing is changed by it but the time and memory a step takes. By default it is done where the
            model keeps such rows apart.
        exact_match: generate an answer to each row that is measured, and count those that are right.
        max_new_tokens: most tokens of a generated text.
        num_beams: texts that are followed up at once as one is generated.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn, and predictions differ.
    """

    loss_on: Literal["completions", "all"] = "completions"
    as_chat: bool = False
    max_length: int | None = None
    too_long: Literal["truncate", "split", "drop"] = "truncate"
    packing: bool | None = None
    exact_match: bool = False
    max_new_tokens: int = 128
    num_beams: int = 1
    temperature: float = 0.0


def settings_for(recipe: Recipe) -> CausalLMSettings:
    """The recipe's, with rows not packed where its adapter forbids it and nothing is said of it."""
    settings = recipe.settings(CausalLMSettings)
    virtual = (recipe.adapter or {}).get("kind") in _VIRTUAL_TOKENS
    return replace(settings, packing=False) if virtual and settings.packing is None else settings


_VIRTUAL_TOKENS = ("prompt", "prompt_tuning", "p_tuning", "prefix", "prefix_tuning", "cartridge")


def faults(settings: CausalLMSettings, adapter: Mapping[str, Any] | None = None) -> list[RecipeError]:
    """What can be known to be wrong without the model.

    Args:
        adapter: the recipe's.
    """
    least = {"max_length": 2, "max_new_tokens": 1, "num_beams": 1, "temperature": 0}
    found = [
        RecipeError(
            f"causal-lm.{name}: must be at least {bound}, found {value:g}",
            hint="leave it out for the default",
        )
        for name, bound in least.items()
        if (value := getattr(settings, name)) is not None and not value >= bound
    ]
    if settings.num_beams > 1 and settings.temperature > 0:
        found.append(
            RecipeError(
                f"causal-lm.temperature: {settings.temperature:g} with num_beams {settings.num_beams}",
                hint="follow up several texts, or draw one: leave one of the two out",
            )
        )
    if settings.packing and (adapter or {}).get("kind") in _VIRTUAL_TOKENS:
        found.append(
            RecipeError(
                "causal-lm.packing: an adapter's virtual tokens stand before a sequence, not before each row in it",
                hint="leave packing out, or choose an adapter such as lora",
            )
        )
    return found
