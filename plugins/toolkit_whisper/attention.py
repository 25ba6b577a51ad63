"""The decoder's attention to the sound, computed in an order that costs less while a text is short.

Whisper makes keys and values of all 1500 positions of the sound, in every layer, for a dozen tokens that look at them.
The scores are q · (K e) = (Kᵀ q) · e, and the result is V (weights · e): K and V are applied to the few tokens instead.
The numbers are the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncoderDecoderCache
from transformers.models.whisper.modeling_whisper import WhisperAttention

SHORT = 48
"""Tokens of a text, up to which this order is used: with heads of 64 it costs as much as Whisper's own at about 70."""


_NO_KEYS = ContextVar("no_keys", default=False)


@contextmanager
def without_keys() -> Iterator[None]:
    """Meanwhile nobody looks for keys and values of the sound, as ways of Whisper's own `generate` do."""
    before = _NO_KEYS.set(True)
    try:
        yield
    finally:
        _NO_KEYS.reset(before)


class CrossAttention(WhisperAttention):
    """Whisper's cross-attention; a text's first tokens look at the sound itself, the others at its keys and values."""

    def forward(
        self,
        hidden_states: Tensor,
        key_value_states: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Any:
        if key_value_states is None or not self._applies(
            hidden_states, key_value_states, past_key_values, kwargs
        ):
            return super().forward(hidden_states, key_value_states, past_key_values, **kwargs)
        return self.out_proj(self._heard(hidden_states, key_value_states)), None

    def _applies(self, texts: Tensor, sound: Tensor, past: Any, others: dict[str, Any]) -> bool:
        """Whether it is the same, and faster: on a CPU, where the projections are ordinary ones."""
        plain = type(self.k_proj) is nn.Linear and type(self.v_proj) is nn.Linear
        exact = {texts.dtype, sound.dtype} == {torch.float32} and texts.device.type == "cpu"
        if not (plain and exact) or torch.is_autocast_enabled("cpu") or len(texts) != len(sound):
            return False
        if others.get("attention_mask") is not None or self.config._attn_implementation != "sdpa":
            return False
        return not (self.training and self.dropout) and 0 < self._tokens(texts, past) <= SHORT

    def _tokens(self, texts: Tensor, past: Any) -> int:
        """How many there are of each text so far; 0 where their keys and values are there already, or looked for."""
        if past is None:
            return texts.shape[1]
        wanted = not _NO_KEYS.get() or not isinstance(past, EncoderDecoderCache)
        if wanted or past.is_updated.get(self.layer_idx):
            return 0
        return int(past.self_attention_cache.get_seq_length(self.layer_idx))

    def _heard(self, texts: Tensor, sound: Tensor) -> Tensor:
        """What each token takes from the sound.

        Args:
            texts: (rows, tokens, width).
            sound: (rows, positions, width).
        Returns:
            (rows, tokens, width).
        """
        rows, tokens, width = texts.shape
        by_head = (self.num_heads, self.head_dim, width)
        asked = (self.q_proj(texts) * self.scaling).view(rows, tokens, self.num_heads, self.head_dim)
        asked = torch.einsum("rthi,hiw->rhtw", asked, self.k_proj.weight.view(by_head))
        weights = (asked.reshape(rows, -1, width) @ sound.mT).softmax(
            dim=-1
        )  # (rows, heads * tokens, positions)
        heard = (weights @ sound).view(rows, self.num_heads, tokens, width)
        heard = torch.einsum("rhtw,hiw->rthi", heard, self.v_proj.weight.view(by_head)).reshape(
            rows, tokens, width
        )
        return heard if self.v_proj.bias is None else heard + self.v_proj.bias


def look_at_sound(decoder: Any) -> None:
    """Have a decoder attend to the sound in this order; it is saved as it was."""
    for layer in decoder.layers:
        if type(layer.encoder_attn) is WhisperAttention:
            layer.encoder_attn.__class__ = CrossAttention
