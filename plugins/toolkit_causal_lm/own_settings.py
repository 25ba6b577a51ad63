"""A model's own generation settings: which of them count here, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from toolkit import ModelError
from toolkit_causal_lm.settings import CausalLMSettings


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _are_tokens(value: Any) -> bool:
    """-1 stands for none in some files."""
    return isinstance(value, list) and all(one == -1 or _is_whole(one) for one in value)


Kinds = Mapping[str, Callable[[Any], bool]]
_ENDS: Kinds = {"eos_token_id": lambda value: _are_tokens(value if isinstance(value, list) else [value])}
_ALWAYS: Kinds = {
    "repetition_penalty": lambda value: _is_number(value) and value > 0,
    "no_repeat_ngram_size": _is_whole,
    "suppress_tokens": _are_tokens,
    "begin_suppress_tokens": _are_tokens,
}
_DRAWING: Kinds = {
    "top_k": _is_whole,
    "top_p": _is_share,
    "min_p": _is_share,
    "typical_p": lambda value: _is_share(value) and value > 0,
}
_BEAMS: Kinds = {
    "length_penalty": _is_number,
    "early_stopping": lambda value: value in (True, False, "never"),
}


def check_own(model: Any) -> None:
    """Raise `ModelError` if one of the model's own settings that count is what `generate` would end over."""
    for name, suits in {**_ENDS, **_ALWAYS, **_DRAWING, **_BEAMS}.items():
        value = getattr(model.generation_config, name, None)
        if value is not None and not suits(value):
            raise ModelError(
                f"the model cannot generate: {name} in its generation_config.json is {value!r:.60}",
                hint=f"mend it there, or take {name} out",
            )


def chosen_by(model: Any, settings: CausalLMSettings) -> dict[str, Any]:
    """How the next token is chosen: as the recipe says, and by the model's own settings where that leaves it open.

    How else `generate` could go about it, such as with a second model or with words that are forced, does not count.
    """
    draws = settings.temperature > 0
    names = [*_ALWAYS, *(_DRAWING if draws else ()), *(_BEAMS if settings.num_beams > 1 else ())]
    asked = {"num_beams": settings.num_beams, "do_sample": draws, "temperature": settings.temperature or None}
    return {name: getattr(model.generation_config, name, None) for name in names} | asked


@contextmanager
def only(model: Any, config: GenerationConfig) -> Iterator[None]:
    """Meanwhile the model has no settings but these: `generate` fills in from its own what they leave open."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kept = [(one, one.generation_config) for one in {model, inner} if "generation_config" in vars(one)]
    for one, _ in kept:
        one.generation_config = config
    try:
        yield
    finally:
        for one, own in kept:
            one.generation_config = own
