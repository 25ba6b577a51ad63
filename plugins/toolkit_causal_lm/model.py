"""Loading a language model and its tokenizer, and seeing that they agree on where a text ends."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

from toolkit import ModelError, RecipeError, load_model, load_processor
from toolkit_causal_lm.encode import complete
from toolkit_causal_lm.generate import ends
from toolkit_causal_lm.packing import check_keeps_apart, keeps_apart
from toolkit_causal_lm.settings import CausalLMSettings


def load(spec: Any, settings: CausalLMSettings) -> tuple[Any, Any]:
    """The model and its tokenizer, which has a chat template, an end and a padding, and knows the model's length.

    Raises:
        ModelError: it cannot be loaded, is no causal language model, or its tokenizer is another model's.
        RecipeError: it cannot do what the settings ask for.
    """
    model = load_model(spec, AutoModelForCausalLM)
    tokenizer = load_processor(spec, AutoTokenizer)
    fit(model, tokenizer, settings)
    return model, tokenizer


def fit_given(model: Any, tokenizer: Any, settings: CausalLMSettings) -> None:
    """Have a model and a tokenizer that were given in code work together as `load` has its own.

    Raises:
        ModelError: it is no causal language model, there is no tokenizer, or it is another model's.
        RecipeError: the model cannot do what the settings ask for.
    """
    if not hasattr(model, "generate") or model.get_output_embeddings() is None:
        raise ModelError(
            f"the model that was given is a {type(model).__name__}, no causal language model",
            hint="give what AutoModelForCausalLM loads, or run another task",
        )
    if tokenizer is None:
        raise ModelError("the model was given without its tokenizer", hint="give it too: processor=...")
    fit(model, tokenizer, settings)


def fit(model: Any, tokenizer: Any, settings: CausalLMSettings) -> None:
    set_length(model, tokenizer, settings)
    check_fit(model, tokenizer)
    complete(tokenizer)
    set_ends(model, tokenizer)
    if settings.packing:
        check_keeps_apart(model)
    tokenizer.rows_may_be_packed = settings.packing is None and keeps_apart(model)


def check_fit(model: Any, tokenizer: Any) -> None:
    """Raise `ModelError` if the tokenizer has tokens that the model has not."""
    rows = model.get_input_embeddings().num_embeddings
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("a").input_ids])
    if highest >= rows:
        raise ModelError(
            f"the tokenizer is not this model's: it counts its tokens up to {highest}, the model to {rows - 1}",
            hint="keep the tokenizer's files of the model beside its weights",
        )


def set_length(model: Any, tokenizer: Any, settings: CausalLMSettings) -> None:
    """Tell the tokenizer how many tokens the model takes.

    Raises:
        ModelError: it is said to take none.
        RecipeError: the settings ask for more.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None:
        tokenizer.model_max_length = positions
    most = tokenizer.model_max_length
    if not most >= 1:
        raise ModelError(
            f"the model takes {most} tokens, by max_position_embeddings in its config.json",
            hint="copy or download that file again",
        )
    if settings.max_length is not None and settings.max_length > most:
        raise RecipeError(
            f"causal-lm.max_length: {settings.max_length}, but the model takes {most} tokens",
            hint="leave it out to take as many as the model can",
        )


def set_ends(model: Any, tokenizer: Any) -> None:
    """Have plain `generate` stop at the end token and at the end of a turn; it is saved with the model."""
    own = model.generation_config
    own.eos_token_id, own.pad_token_id = ends(own, tokenizer), tokenizer.pad_token_id
