"""Text from encoded sound."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationMixin, PreTrainedModel


def unwrapped(model: Any) -> Any:
    """The Whisper itself, inside PEFT's wrapper too; its adapters stay in place."""
    return model if isinstance(model, PreTrainedModel) else model.get_base_model()


def transcribe(whisper: Any, encoded: Any, tokenizer: Any, max_new_tokens: int | None) -> list[str]:
    """The most likely text, token by token, after the prompt that the labels begin with.

    Whisper's own `generate` takes the prompt from the generation settings, which may hold another or an
    outdated one. The `generate` beneath it is told the prompt, and gives the same for what fits the window.

    Args:
        whisper: the model, see `unwrapped`.
        encoded: what its encoder returned for some rows.
        max_new_tokens: None for as many as the decoder has room for.
    Returns:
        One text a row, without special tokens and spaces around it.
    """
    states = encoded.last_hidden_state  # (rows, positions, width)
    prompt = torch.tensor([tokenizer.prefix_tokens], device=states.device)  # (1, prompt)
    room = whisper.config.max_target_positions - prompt.shape[1]
    tokens = GenerationMixin.generate(
        whisper,
        encoder_outputs=encoded,
        attention_mask=states.new_ones(states.shape[:2]),
        decoder_input_ids=prompt.expand(len(states), -1),
        max_length=prompt.shape[1] + min(max_new_tokens or room, room),
        max_new_tokens=None,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=False,
    )
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]
