"""How a model generates: as a run asks, and by those of its own settings, in its generation_config.json, that count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit.errors import ModelError
from toolkit.inside import unwrapped

if TYPE_CHECKING:
    from transformers import GenerationConfig


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


def check_generation(model: Any) -> None:
    """Raise `ModelError` if one of the model's own settings that count is what `generate` would end over."""
    for name, suits in {**_ENDS, **_ALWAYS, **_DRAWING, **_BEAMS}.items():
        value = getattr(getattr(model, "generation_config", None), name, None)
        if value is not None and not suits(value):
            raise ModelError(
                f"the model cannot generate: {name} in its generation_config.json is {value!r:.60}",
                hint=f"mend it there, or take {name} out",
            )


@contextmanager
def generation_settings(model: Any, **asked: Any) -> Iterator[GenerationConfig]:
    """Meanwhile a model generates as asked, and by those of its own settings that count and are not asked otherwise.

    `repetition_penalty`, `no_repeat_ngram_size`, `suppress_tokens` and `begin_suppress_tokens` of its own count; with
    `do_sample=True` also `top_k`, `top_p`, `min_p` and `typical_p`, with `num_beams` above 1 `length_penalty` and
    `early_stopping`. How else `generate` could go about it, such as with a second model or with words that are forced,
    is not for the model's files to say.

        with generation_settings(model, max_new_tokens=20, eos_token_id=2) as config:
            tokens = model.generate(ids, generation_config=config)
    """
    from transformers import GenerationConfig

    beams = asked.get("num_beams", 1) > 1
    names = [*_ALWAYS, *(_DRAWING if asked.get("do_sample") else ()), *(_BEAMS if beams else ())]
    own = {name: getattr(model.generation_config, name, None) for name in names}
    config = GenerationConfig(**{**own, **asked})
    kept = [
        (one, one.generation_config) for one in {model, unwrapped(model)} if "generation_config" in vars(one)
    ]
    for one, _ in kept:  # `generate` fills in from the model's own what a configuration leaves open
        one.generation_config = config
    try:
        yield config
    finally:
        for one, had in kept:
            one.generation_config = had
