"""A LLaMA of nano size, and a tokenizer of one token a byte with the ends that real ones have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

POSITIONS = 160
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def nano_tokenizer(template: str | None = CHATML, bos: bool = False, **special: str | None) -> Any:
    """One token a byte; `</s>` ends texts, `<|im_end|>` turns.

    Args:
        bos: whether `<s>` is put before every text.
        special: `pad_token` and the like.
    """
    names = ["<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {
        name: place for place, name in enumerate([*names, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(names)
    if bos:
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **special}
    )
    tokenizer.chat_template = template
    return tokenizer


def nano_llama(tokenizer: Any, **config: Any) -> Any:
    torch.manual_seed(0)
    values = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "initializer_range": 0.3,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**values, **config})).eval()


@pytest.fixture
def tokenizer() -> Any:
    return nano_tokenizer()


@pytest.fixture
def llama(tokenizer: Any) -> Any:
    return nano_llama(tokenizer)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """A model and its tokenizer in a folder, as a user has them."""

    def save(model: Any, tokenizer: Any, name: str = "model") -> str:
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save
