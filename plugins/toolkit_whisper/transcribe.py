"""Text from encoded sound."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from toolkit import generation_settings
from toolkit_whisper.attention import without_keys
from toolkit_whisper.labels import START
from toolkit_whisper.settings import WhisperSettings

POSITIONS_A_SECOND = 50


def transcribe(
    whisper: Any, encoded: Any, tokenizer: Any, prompt: Tensor, settings: WhisperSettings
) -> list[str]:
    """The most likely text, token by token, after the prompt that the labels begin with.

    Whisper's own `generate` takes the prompt from the generation settings, which may hold another or an
    outdated one. The `generate` beneath it is told the prompt, and gives the same for what fits the window.

    Args:
        whisper: the model, unwrapped.
        encoded: what its encoder returned for some rows.
        prompt: (rows, tokens), see `prompt_for`.
        settings: `num_beams`, and `max_new_tokens`, None for as many as the sound has room for.
    Returns:
        One text a row, without special tokens and spaces around it.
    """
    states = encoded.last_hidden_state  # (rows, positions, width)
    asked = prompt.shape[1]
    most = settings.max_new_tokens or tokens_for(whisper.config, states.shape[1])
    chosen = generation_settings(
        whisper,
        num_beams=settings.num_beams,
        do_sample=False,
        max_length=min(asked + most, whisper.config.max_target_positions),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=whisper.config.decoder_start_token_id,
        use_cache=True,
    )
    with chosen as config, without_keys():
        tokens = GenerationMixin.generate(
            whisper,
            encoder_outputs=encoded,
            attention_mask=states.new_ones(states.shape[:2]),
            decoder_input_ids=prompt.to(states.device),
            generation_config=config,
        )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def tokens_for(config: Any, positions: int) -> int:
    """Most tokens of a text heard in so many positions of the encoder.

    The decoder's, in a full window; in a short one their share, that of a second more. A model that repeats itself, as
    one does that was never trained on short windows, stops there.
    """
    own, room = int(config.max_source_positions), int(config.max_target_positions)
    return math.ceil(min(1.0, (positions + POSITIONS_A_SECOND) / own) * room)


def heard_languages(whisper: Any, encoded: Any, tokenizer: Any) -> list[str]:
    """The code of the likeliest language of each row: its token is what the model says first."""
    states = encoded.last_hidden_state
    start = states.new_full((len(states), 1), tokenizer.convert_tokens_to_ids(START), dtype=torch.long)
    ids = {code: tokenizer.convert_tokens_to_ids(f"<|{code}|>") for code in LANGUAGES}
    known = {code: one for code, one in ids.items() if one != tokenizer.unk_token_id}
    logits = whisper(encoder_outputs=encoded, decoder_input_ids=start, use_cache=False).logits[:, -1]
    likeliest = logits[:, list(known.values())].argmax(dim=-1)  # (rows,)
    return [list(known)[place] for place in likeliest.tolist()]
