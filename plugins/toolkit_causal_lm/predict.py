"""Prompts to answers."""

from __future__ import annotations

from typing import Any

import torch

from toolkit import DataError
from toolkit_causal_lm.chat import rendered, tokens
from toolkit_causal_lm.encode import Encode
from toolkit_causal_lm.generate import generate
from toolkit_causal_lm.settings import CausalLMSettings

AT_ONCE = 8


class Completer:
    """`(prompts) -> texts`: answers to what a user says, where the rows were chats, else continuations."""

    def __init__(self, model: Any, tokenizer: Any, settings: CausalLMSettings, chat: bool) -> None:
        self.model, self.tokenizer, self.settings, self.chat = model, tokenizer, settings, chat
        self.encode = Encode(tokenizer, settings)

    @torch.inference_mode()
    def __call__(self, prompts: list[str]) -> list[str]:
        """The text that follows each prompt.

        Raises:
            DataError: a prompt is empty, or leaves the model no room; all are looked at before the first is answered.
        """
        asked = [self._asked(prompt) for prompt in prompts]
        texts: list[str] = []
        for start in range(0, len(asked), AT_ONCE):
            texts += generate(self.model, self.tokenizer, asked[start : start + AT_ONCE], self.settings)
        return texts

    def _asked(self, prompt: str) -> list[int]:
        if not prompt.strip():
            raise DataError("the prompt is empty", hint="give a text for the model to go on from")
        if self.chat:
            turns = [{"role": "user", "content": prompt}]
            asked = tokens(self.tokenizer, rendered(self.tokenizer, turns, answer_next=True))
        else:
            asked = self.encode.prompt(prompt)
        most = self.tokenizer.model_max_length
        if len(asked) >= most:
            raise DataError(
                f"the prompt makes {len(asked)} tokens, the model takes {most}: {prompt[:40]!r}…",
                hint="shorten it",
            )
        return asked
