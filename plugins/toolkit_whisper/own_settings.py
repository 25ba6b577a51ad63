"""A model's own generation settings: which of them count here, and what they may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig

from toolkit import ModelError


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, int) and -1 <= one < 2**63 for one in value)


Kinds = Mapping[str, Callable[[Any], bool]]
_ALWAYS: Kinds = {
    "repetition_penalty": lambda value: _is_number(value) and value > 0,
    "no_repeat_ngram_size": lambda value: isinstance(value, int) and value >= 0,
    "suppress_tokens": _are_tokens,
    "begin_suppress_tokens": _are_tokens,
}
_BEAMS: Kinds = {
    "length_penalty": _is_number,
    "early_stopping": lambda value: value in (True, False, "never"),
}


def check_own(whisper: Any) -> None:
    """Raise `ModelError` if one of the model's own settings that count is what `generate` would end over."""
    for name, suits in {**_ALWAYS, **_BEAMS}.items():
        value = getattr(whisper.generation_config, name, None)
        if value is not None and not suits(value):
            raise ModelError(
                f"the model cannot generate: {name} in its generation_config.json is {value!r:.60}",
                hint=f"mend it there, or take {name} out",
            )


def chosen_by(whisper: Any, num_beams: int) -> dict[str, Any]:
    """How the next token is chosen: the likeliest, less what the model's own settings have against it.

    How else `generate` could go about it, such as with a second model or with words that are forced, does not count.
    """
    names = [*_ALWAYS, *(_BEAMS if num_beams > 1 else ())]
    own = {name: getattr(whisper.generation_config, name, None) for name in names}
    return {**own, "num_beams": num_beams, "do_sample": False}


@contextmanager
def only(whisper: Any, config: GenerationConfig) -> Iterator[None]:
    """Meanwhile the model has no settings but these: `generate` fills in from its own what they leave open."""
    own, whisper.generation_config = whisper.generation_config, config
    try:
        yield
    finally:
        whisper.generation_config = own
