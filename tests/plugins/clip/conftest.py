"""A CLIP of nano size with its processor, and images to show it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

SIDE, MAX_TOKENS = 32, 16
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (30, 60, 220), "yellow": (240, 220, 40)}

Nano = tuple[Any, Any]


def nano_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer without merges: a token a letter."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    places = {token: place for place, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=places, merges=[], model_max_length=MAX_TOKENS)


def nano_clip(seed: int = 0) -> Nano:
    tokenizer = nano_tokenizer()
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
    }
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    text["pad_token_id"] = tokenizer.pad_token_id
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=8, initializer_factor=4.0)
    )
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    return model.eval(), CLIPProcessor(CLIPImageProcessorPil(**sizes), tokenizer)


def nano_siglip() -> Nano:
    """With a tokenizer that gives no attention mask, as SigLIP's: its model always reads texts of full length."""
    words = {
        word: place
        for place, word in enumerate(["<pad>", "<eos>", "<unk>", "no", *map("{:03d}".format, range(200))])
    }
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=8, model_input_names=["input_ids"], **special
    )
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1}
    text = {**tower, **ends, "vocab_size": len(words), "max_position_embeddings": 8, "projection_size": 16}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    return model.eval(), SiglipProcessor(
        SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}), tokenizer
    )


@pytest.fixture
def nano() -> Nano:
    return nano_clip()


@pytest.fixture
def folder(nano: Nano, tmp_path: Path) -> str:
    """The nano model as a user has it."""
    for part in nano:
        part.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def siglip_folder(tmp_path: Path) -> str:
    """A nano SigLIP as a user has it."""
    for part in nano_siglip():
        part.save_pretrained(tmp_path / "siglip")
    return str(tmp_path / "siglip")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """An RGB image with something everywhere."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (max(height // 4, 1), max(width // 4, 1), 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """`picture(width, height, seed)`."""
    return noise


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, image, **options)` saves it as Pillow does."""

    def save(name: str, image: Image.Image, **options: Any) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


@pytest.fixture
def rows(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """`rows(count)`: image files and captions, each of its own."""

    def make(count: int, start: int = 0) -> list[dict[str, Any]]:
        found = []
        for number in range(start, start + count):
            path = tmp_path / f"image_{number:03d}.png"
            noise(SIDE + number % 3, SIDE, number).save(path)
            found.append({"image": str(path), "caption": f"no {number:03d}"})
        return found

    return make
