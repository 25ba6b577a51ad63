"""A CLIP of nano size: the classes of the real one, with pictures, a vocabulary and a width of its own."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

MAX_TOKENS = 32  # of a caption, with start and end
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"

Pair: TypeAlias = tuple[Image.Image, str]  # a picture and its caption


def build_tokenizer(texts: Iterable[str], merges: int) -> CLIPTokenizer:
    """CLIP's byte-level BPE with at most so many merges: all bytes, within words and at their end, are in it.

    So any text can be encoded. The end of a text is the last token, which is also how older CLIPs find it.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [*alphabet, *(letter + WORD_END for letter in alphabet)]
    bpe = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    bpe.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + merges,
        initial_alphabet=alphabet,
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    pairs = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]][:merges]
    tokens = list(dict.fromkeys([*letters, *("".join(pair) for pair in pairs), START, END]))
    vocabulary = {token: place for place, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=pairs, model_max_length=MAX_TOKENS)


def build_processor(tokenizer: CLIPTokenizer, side: int) -> CLIPProcessor:
    """The tokenizer, with pictures of `side` pixels."""
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return CLIPProcessor(CLIPImageProcessorPil(**sizes), tokenizer)


def build_model(tokenizer: CLIPTokenizer, side: int, width: int, layers: int, heads: int) -> CLIPModel:
    """An untrained model for the tokenizer and for pictures of `side` pixels."""
    tower = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends |= {"pad_token_id": tokenizer.pad_token_id}
    text = {**tower, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": MAX_TOKENS}
    vision = {**tower, "image_size": side, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def train(
    model: CLIPModel,
    processor: CLIPProcessor,
    draw_batch: Callable[[], Sequence[Pair]],
    steps: int,
    learning_rate: float,
) -> None:
    """Train all weights with AdamW: a tenth of the steps to warm up, then a straight line down to nought."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / (steps - warmup))
    )
    model.train()
    for step in range(1, steps + 1):
        loss = model(**collate(draw_batch(), processor), return_loss=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.logit_scale.data.clamp_(0, 4.6)
        if step % 100 == 0:
            print(f"  step {step} of {steps}: loss {loss.item():.3f} nats a picture", flush=True)


def collate(batch: Sequence[Pair], processor: CLIPProcessor) -> Any:
    """`pixel_values` (batch, 3, side, side) and `input_ids`, `attention_mask` (batch, tokens)."""
    pictures, captions = zip(*batch, strict=True)
    return processor(images=list(pictures), text=list(captions), padding=True, return_tensors="pt")


@torch.no_grad()
def recall(model: CLIPModel, processor: CLIPProcessor, pairs: Sequence[Pair]) -> float:
    """The share of captions whose own picture is the nearest."""
    scores = model.eval()(**collate(pairs, processor)).logits_per_text  # (captions, pictures)
    return float((scores.argmax(dim=1) == torch.arange(len(pairs))).float().mean())


def save(model: CLIPModel, processor: CLIPProcessor, folder: Path) -> None:
    """Write a model folder with weights in float16; its config makes transformers load them as float32."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(
        folder, state_dict={name: weight.half() for name, weight in model.state_dict().items()}
    )
    processor.save_pretrained(folder)
