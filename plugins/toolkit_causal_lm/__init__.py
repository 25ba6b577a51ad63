"""Causal language models: learning to continue texts, to complete prompts and to answer in chats.

A row is a chat (`messages`), a `prompt` with its `completion`, or just `text`. The metrics are `perplexity` and
`token_accuracy`, and where it is asked for `exact_match`. The settings are `CausalLMSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from toolkit import Batch, Column, Loss, Metric, Recipe, Row, Scored, hookimpl
from toolkit_causal_lm.settings import CausalLMSettings as CausalLMSettings
from toolkit_causal_lm.settings import faults, settings_for


@hookimpl
def toolkit_settings() -> type:
    return CausalLMSettings


@hookimpl
def toolkit_check(recipe: Recipe) -> Sequence[Exception]:
    return faults(recipe.settings(CausalLMSettings), recipe.adapter)


@hookimpl
def toolkit_columns() -> Sequence[Column]:
    return [
        Column("messages", usual=("conversations", "conversation", "chat"), one_of="text"),
        Column("completion", usual=("response", "output", "answer"), one_of="text"),
        Column("text", usual=("content",), one_of="text"),
        Column("prompt", usual=("instruction", "question"), required=False),
        Column("input", required=False),
    ]


@hookimpl
def toolkit_model(recipe: Recipe) -> Callable[[], tuple[Any, Any]]:
    from toolkit_causal_lm.model import load

    return lambda: load(recipe.model, settings_for(recipe))


@hookimpl
def toolkit_given(recipe: Recipe, model: Any, processor: Any) -> None:
    from toolkit_causal_lm.model import fit_given

    fit_given(model, processor, settings_for(recipe))


@hookimpl
def toolkit_inspect(recipe: Recipe, processor: Any) -> Callable[[Row], Mapping[str, float | str]]:
    from toolkit_causal_lm.inspect_ import Inspect

    return Inspect(processor, recipe.settings(CausalLMSettings))


@hookimpl
def toolkit_row_length() -> Callable[[Row], float]:
    from toolkit_causal_lm.rows import characters

    return characters


@hookimpl
def toolkit_prepare(recipe: Recipe, processor: Any) -> Callable[[Row], Row]:
    from toolkit_causal_lm.prepare import Prepare

    return Prepare(processor, recipe.settings(CausalLMSettings))


@hookimpl
def toolkit_show(processor: Any) -> Callable[[Row], str]:
    from toolkit_causal_lm.inspect_ import Show

    return Show(processor)


@hookimpl
def toolkit_collator(recipe: Recipe, processor: Any) -> Callable[[list[Row]], Batch]:
    from toolkit_causal_lm.collate import Collator

    return Collator(processor, settings_for(recipe))


@hookimpl
def toolkit_loss() -> Callable[[Any, Batch], Loss]:
    from toolkit_causal_lm.loss import summed_cross_entropy

    return summed_cross_entropy


@hookimpl
def toolkit_evaluate_batch(recipe: Recipe, processor: Any) -> Callable[[Any, Batch], Scored]:
    from toolkit_causal_lm.scoring import Evaluate

    settings = recipe.settings(CausalLMSettings)
    needs_all = settings.exact_match or recipe.eval.metrics or recipe.train.get("do_predict")
    return Evaluate(processor, settings, every_row=bool(needs_all))


@hookimpl
def toolkit_metrics(recipe: Recipe) -> Sequence[Metric]:
    from toolkit_causal_lm.metrics import ExactMatch, Perplexity, TokenAccuracy

    asked = [ExactMatch()] if recipe.settings(CausalLMSettings).exact_match else []
    return [Perplexity(), TokenAccuracy(), *asked]


@hookimpl
def toolkit_predict(
    recipe: Recipe, model: Any, processor: Any, columns: Mapping[str, str]
) -> Callable[[list[str]], list[str]]:
    from toolkit_causal_lm.predict import Completer

    settings = recipe.settings(CausalLMSettings)
    return Completer(model, processor, settings, chat=settings.as_chat or "messages" in columns)
