"""The sample of `clip-contrastive`: a nano CLIP that knows some shapes and colours, and pictures with others too.

The model is trained on drawings of its shapes and colours, described in sentences. The pictures that are shipped show
as many more shapes and colours, and are described in catchwords, some in a sentence too. So there are new things and a
new way to speak of them, and both can be learnt from a few hundred pictures.
"""

import csv
import random
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor

from samples import nano_clip
from samples.nano_clip import Pair
from samples.pictures import COLOURS, SHAPES, SIDE, Scene, all_scenes, draw, plainly, tersely

SEED = 30
SPLITS = {"train": 400, "validation": 60, "test": 80}  # pictures
SECOND_CAPTION = 0.3  # the share of pictures that are described both ways

KNOWN_SHAPES, KNOWN_COLOURS = SHAPES[:4], tuple(COLOURS)[:4]
BASE_STEPS = 400
BASE_BATCH = 64
BASE_LEARNING_RATE = 1e-3

Row = tuple[Image.Image, list[str]]  # a picture and its captions


def make(folder: Path) -> None:
    """Write `data` and `model` into the folder, in place of what was there."""
    torch.set_num_threads(1)  # sums depend on it in their last bits
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    generator = random.Random(SEED)
    scenes = generator.sample(list(all_scenes()), sum(SPLITS.values()))  # all different
    rows = [describe(scene, generator) for scene in scenes]
    splits, start = {}, 0
    for split, count in SPLITS.items():
        splits[split], start = rows[start : start + count], start + count

    write_data(folder / "data", splits)
    model, processor = train_base(generator, set(scenes))
    nano_clip.save(model, processor, folder / "model")

    shipped = CLIPModel.from_pretrained(folder / "model")
    known = [(draw(scene, generator), plainly(scene)) for scene in _known(generator, set(scenes), 80)]
    print("text to picture, recall at 1 of 80")
    print(f"  known things  {nano_clip.recall(shipped, processor, known):.3f}")
    new = [(picture, captions[0]) for picture, captions in splits["test"]]
    print(f"  the sample's  {nano_clip.recall(shipped, processor, new):.3f}")


def describe(scene: Scene, generator: random.Random) -> Row:
    """A picture of the scene, and catchwords for it; for some a sentence too."""
    captions = [tersely(scene)]
    if generator.random() < SECOND_CAPTION:
        captions.append(plainly(scene))
    return draw(scene, generator), captions


def write_data(folder: Path, splits: dict[str, list[Row]]) -> None:
    """Lay the pictures out by the imagefolder convention; one with two captions has two lines."""
    shutil.rmtree(folder, ignore_errors=True)
    for split, rows in splits.items():
        (folder / split).mkdir(parents=True)
        lines = []
        for number, (picture, captions) in enumerate(rows):
            name = f"{split}_{number:03d}.png"
            picture.save(folder / split / name, optimize=True)
            lines += [(name, caption) for caption in captions]
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file_name", "caption"])
            writer.writerows(lines)


def train_base(generator: random.Random, reserved: set[Scene]) -> tuple[CLIPModel, CLIPProcessor]:
    """Train the model from scratch on the known shapes and colours."""
    every = list(all_scenes())
    texts = [say(scene) for scene in every for say in (plainly, tersely)]
    tokenizer = nano_clip.build_tokenizer(texts, merges=160)
    processor = nano_clip.build_processor(tokenizer, SIDE)
    model = nano_clip.build_model(tokenizer, SIDE, width=96, layers=2, heads=4)
    print(f"a model of {model.num_parameters():,} parameters, {len(tokenizer)} tokens")

    def draw_batch() -> list[Pair]:
        scenes = _known(generator, reserved, BASE_BATCH)
        return [(draw(scene, generator), plainly(scene)) for scene in scenes]

    nano_clip.train(model, processor, draw_batch, BASE_STEPS, BASE_LEARNING_RATE)
    return model, processor


def _known(generator: random.Random, reserved: set[Scene], count: int) -> list[Scene]:
    """Different scenes of known shapes and colours, none of them shipped."""
    known = [scene for scene in all_scenes(KNOWN_SHAPES, KNOWN_COLOURS) if scene not in reserved]
    return generator.sample(known, count)
