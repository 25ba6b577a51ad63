"""Text that a model generates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from toolkit import generation_settings
from toolkit_causal_lm.chat import end_of_turn
from toolkit_causal_lm.settings import CausalLMSettings


def generate(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], settings: CausalLMSettings
) -> list[str]:
    """How the model goes on from each prompt, until it ends by itself or has written enough.

    Args:
        prompts: lists of tokens; of those that leave no room in the model, the last ones are taken.
    Returns:
        One text a prompt, without special tokens and spaces around it.
    """
    most = tokenizer.model_max_length
    new = min(settings.max_new_tokens, max(most // 2, most - max(map(len, prompts))))
    kept = [list(prompt[-(most - new) :]) for prompt in prompts]
    width = max(map(len, kept))
    padding = tokenizer.pad_token_id
    ids = torch.tensor([[padding] * (width - len(one)) + one for one in kept])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in kept])
    stops = ends(model.generation_config, tokenizer)
    chosen = generation_settings(
        model,
        num_beams=settings.num_beams,
        do_sample=settings.temperature > 0,
        temperature=settings.temperature or None,
        max_new_tokens=new,
        eos_token_id=stops,
        pad_token_id=padding,
        use_cache=True,
    )
    with chosen as config, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Position ids are not supported")  # beside virtual tokens
        written = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
        )
    return [_text(tokenizer, row[width:].tolist(), {*stops}) for row in written]


def ends(config: Any, tokenizer: Any) -> list[int]:
    """The tokens that end a text: those of the generation settings, of the tokenizer, of a turn in its template."""
    known = config.eos_token_id
    given = known if isinstance(known, list) else [known]
    found = dict.fromkeys([*given, tokenizer.eos_token_id, end_of_turn(tokenizer)])
    return [end for end in found if end is not None]


def _text(tokenizer: Any, ids: list[int], stops: set[int]) -> str:
    length = next((place for place, token in enumerate(ids) if token in stops), len(ids))
    return str(tokenizer.decode(ids[:length], skip_special_tokens=True)).strip()
