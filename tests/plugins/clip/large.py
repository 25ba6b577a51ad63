"""A CLIP with adapters and dropout in float64, a batch for it, and its gradients; run as a program it is one rank.

python large.py FOLDER RANK RANKS
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

ROWS, TOKENS = 8, 6


def model(dropout: float = 0.3) -> Any:
    """LoRA on both towers, and the projections and the temperature train as well."""
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 30, "eos_token_id": 31, "pad_token_id": 31}
    text = {**tower, **ends, "vocab_size": 32, "max_position_embeddings": TOKENS}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1"], lora_dropout=dropout, init_lora_weights=False)
    adapted = get_peft_model(clip, config)
    for name, weights in adapted.named_parameters():
        if "projection" in name or "logit_scale" in name:
            weights.requires_grad_()
    return adapted.double().train()


def batch(rows: slice = slice(None)) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (ROWS, 3, 16, 16), generator=generator, dtype=torch.uint8)[rows]
    ids = torch.randint(0, 30, (ROWS, TOKENS), generator=generator)
    ids[:, -1] = 31
    count = len(pixels)
    return {
        "pixels": pixels,
        "mean": torch.full((3,), 127.0, dtype=torch.float64),
        "std": torch.full((3,), 64.0, dtype=torch.float64),
        "input_ids": ids[rows],
        "attention_mask": torch.ones_like(ids[rows]),
        "image_of": torch.arange(count),
        "num_targets": count,
    }


class RowDropout(nn.Module):
    """Dropout whose mask is a function of (layer, row of the whole batch), however the batch is cut up.

    Rows arrive in order, and over again in a second pass; `first` is the first that this rank has, of `rows`.
    """

    def __init__(self, layer: int, share: float, first: int = 0, rows: int = ROWS) -> None:
        super().__init__()
        self.layer, self.share, self.first, self.rows, self.seen = layer, share, first, rows, 0

    def forward(self, values: Tensor) -> Tensor:
        masks = []
        for _ in values:
            row = self.first + self.seen % self.rows
            generator = torch.Generator().manual_seed(1000 * self.layer + row)
            masks.append(torch.rand(values.shape[1:], generator=generator) >= self.share)
            self.seen += 1
        return values * torch.stack(masks) / (1 - self.share)


def with_row_dropout(adapted: Any, first: int = 0, rows: int = ROWS) -> Any:
    layers = [module for module in adapted.modules() if hasattr(module, "lora_dropout")]
    for number, layer in enumerate(layers):
        layer.lora_dropout["default"] = RowDropout(number, 0.3, first, rows)
    assert layers
    return adapted


def gradients(adapted: Any) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in adapted.named_parameters() if one.grad is not None}


def rank(folder: Path, number: int, ranks: int) -> None:
    """One step of one rank on its rows, in parts of two; its loss and gradients go into the folder."""
    from toolkit_clip.settings import ClipSettings
    from toolkit_clip.step import Step
    from torch.nn.parallel import DistributedDataParallel

    place = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=place, rank=number, world_size=ranks)
    share = ROWS // ranks
    own = slice(number * share, (number + 1) * share)
    found = {}
    for size in (2, None):
        wrapped = DistributedDataParallel(with_row_dropout(model(), own.start, share))
        # As the core scales it: gradients are averaged over ranks.
        loss = Step(ClipSettings(micro_batch_size=size))(
            wrapped, batch(own), lambda part: (part * ranks / ROWS).backward()
        )
        found[str(size)] = {"loss": loss.total, **gradients(wrapped.module)}
    torch.save(found, folder / f"rank{number}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    rank(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
