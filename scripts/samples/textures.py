"""The sample of what `toolkit new` writes: a tiny ViT with random weights, and images of three textures.

Each texture fills its image, so that a patch or two of it are enough to tell, and a model that knows nothing learns it
from a hundred images in seconds.
"""

import csv
import random
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

SEED = 6
SIDE, BAND = 16, 2  # pixels
TEXTURES = ("across", "checked", "down")
SPLITS = {"train": 40, "test": 10}  # images of each texture
CONFIG = ViTConfig(
    image_size=SIDE,
    patch_size=4,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    id2label=dict(enumerate(TEXTURES)),
    label2id={name: number for number, name in enumerate(TEXTURES)},
)


def make(folder: Path) -> None:
    """Write `data` and `model` into the folder, in place of what was there."""
    generator = random.Random(SEED)
    for split, count in SPLITS.items():
        write_split(folder / "data" / split, count, generator)
    torch.manual_seed(SEED)
    shutil.rmtree(folder / "model", ignore_errors=True)
    ViTForImageClassification(CONFIG).half().save_pretrained(folder / "model")
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "model")


def write_split(folder: Path, count: int, generator: random.Random) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["file_name", "label"])
        for number in range(count):
            for texture in TEXTURES:
                name = f"{texture}_{number}.png"
                draw(texture, generator).save(folder / name, optimize=True)
                table.writerow([name, texture])


def draw(texture: str, generator: random.Random) -> Image.Image:
    """Bands of a light on a dark colour, beginning anywhere."""
    place = (np.arange(SIDE) + generator.randrange(2 * BAND)) // BAND % 2 == 0
    across, down = np.broadcast_to(place[:, None], (SIDE, SIDE)), np.broadcast_to(place, (SIDE, SIDE))
    light = {"across": across, "checked": across ^ down, "down": down}[texture]
    dark_colour = [generator.randrange(0, 110) for _ in "rgb"]
    light_colour = [generator.randrange(145, 256) for _ in "rgb"]
    return Image.fromarray(np.where(light[..., None], light_colour, dark_colour).astype(np.uint8))
