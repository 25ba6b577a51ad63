"""Images and captions: a locked image tower over several epochs, large contrastive batches, and many pairs ranked.

The same weights, rows, order, steps, optimizer and seed on all sides; all begin from `setting.shared / "model"`.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.frame import Measured, Setting, Side, Target, Workload, measuring

ROWS = {"small": 64, "full": 96}
"""To train on with a locked tower."""
EPOCHS, RATE, BATCH = 3, 5e-4, 64
TEXT_LORA = {"r": 16, "lora_alpha": 32, "target_modules": r".*text_model.*\.(q_proj|v_proj)"}
LARGE = {"small": 64, "full": 512}
"""Rows of a large batch."""
PART = 32
"""Of a large batch, computed at once."""
PAIRS, WIDTH = {"small": 5_000, "full": 50_000}, 512

Rows = list[dict[str, Any]]


def prepare(setting: Setting) -> None:
    """The weights that all sides begin from: the model's own, or where a configuration is all there is, random ones."""
    from transformers import AutoConfig, CLIPModel, CLIPProcessor, set_seed

    name = setting.model("clip")
    set_seed(setting.seed)
    bare = Path(name).is_dir() and not any(Path(name).glob("*.safetensors"))
    model = CLIPModel(AutoConfig.from_pretrained(name)) if bare else CLIPModel.from_pretrained(name)
    model.save_pretrained(model_folder(setting))
    CLIPProcessor.from_pretrained(name).save_pretrained(model_folder(setting))


def model_folder(setting: Setting) -> Path:
    return setting.shared / "model"


def pairs(setting: Setting, most: int) -> dict[str, Rows]:
    """Rows `image` and `caption`, one caption each, in an order of their own: to train on, and to measure on."""
    from toolkit import Recipe
    from toolkit.opening import open_data
    from toolkit.plugins import Plugins

    recipe = Recipe(
        name="pairs", plugins=["clip"], model=str(model_folder(setting)), data=setting.data("images")
    )
    splits = open_data(Plugins(recipe), None)
    return {name: _some(splits[name], most, setting.seed) for name in ("train", "validation")}


def _some(rows: Any, most: int, seed: int) -> Rows:
    found = []
    for row in rows:
        caption = row["caption"]
        found.append({"image": row["image"], "caption": caption if isinstance(caption, str) else caption[0]})
    random.Random(seed).shuffle(found)
    return found[:most]


# ---- a locked image tower ------------------------------------------------------------------------------------


def _train(setting: Setting) -> dict[str, Any]:
    return {
        "num_train_epochs": EPOCHS,
        "learning_rate": RATE,
        "per_device_train_batch_size": min(BATCH, ROWS[setting.size] // 2),
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "logging_steps": 1,
        "seed": setting.seed,
        "report_to": "none",
        "use_cpu": True,
    }


def script(setting: Setting) -> Measured:
    """transformers' Trainer, in a plain script: images are decoded as they are needed."""
    import torch
    from peft import LoraConfig, get_peft_model
    from toolkit_clip.images import open_rgb
    from transformers import CLIPModel, CLIPProcessor, Trainer, TrainingArguments, set_seed

    rows = pairs(setting, ROWS[setting.size])
    with measuring() as meter:
        set_seed(setting.seed)
        model = CLIPModel.from_pretrained(model_folder(setting))
        processor = CLIPProcessor.from_pretrained(model_folder(setting), backend="pil")
        model = get_peft_model(model, LoraConfig(**TEXT_LORA))

        def collate(batch: Rows) -> dict[str, Any]:
            images = [open_rgb(row["image"]) for row in batch]
            texts = [row["caption"] for row in batch]
            made = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
            return {**made, "return_loss": True}

        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=str(setting.folder),
                remove_unused_columns=False,
                disable_tqdm=True,
                **_train(setting),
            ),
            train_dataset=rows["train"],
            data_collator=collate,
        )
        trainer.train()
        model.save_pretrained(setting.folder / "model")
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    with torch.no_grad():
        found = recall(model.eval(), processor, rows["validation"])
    return meter.measured({"rows": EPOCHS * len(rows["train"])}, {"train_loss": losses[-1], **found})


def toolkit(setting: Setting, cache: Path | None = None) -> Measured:
    """A run; its cache is cold unless it is given one."""
    import json

    import torch

    import toolkit
    import toolkit.execution

    rows = pairs(setting, ROWS[setting.size])
    recipe = toolkit.Recipe(
        name="pairs",
        plugins=["clip"],
        model=str(model_folder(setting)),
        data={"validation_fraction": 0},
        train={**_train(setting), "do_eval": False},
        eval={"before": False},
        adapter=TEXT_LORA,
        cache={"dir": str(cache or setting.folder / "cache")},
    )
    with measuring() as meter:
        made = toolkit.run(recipe, str(setting.folder / "run"), data={"train": rows["train"]})
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    with torch.no_grad():
        found = recall(made.model.eval(), made.processor, rows["validation"])
    return meter.measured({"rows": EPOCHS * len(rows["train"])}, {"train_loss": lines[-1]["loss"], **found})


def warm(setting: Setting) -> Measured:
    """A run that reads what another one has kept."""
    from dataclasses import replace

    cache = setting.shared / "cache"
    if not cache.exists():
        toolkit(replace(setting, folder=setting.folder / "first"), cache)
    return toolkit(setting, cache)


def recall(model: Any, processor: Any, rows: Rows) -> dict[str, float]:
    """`recall@10`: the share of captions whose image is among the ten nearest of all."""
    import torch
    from toolkit_clip.images import open_rgb
    from toolkit_clip.metrics import Retrieval

    metric = Retrieval()
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        texts, images = [row["caption"] for row in some], [open_rgb(row["image"]) for row in some]
        made = processor(text=texts, images=images, padding=True, truncation=True, return_tensors="pt")
        outputs = model(**made)
        keys = [row["image"] for row in some]
        points = (torch.nn.functional.normalize(one) for one in (outputs.image_embeds, outputs.text_embeds))
        images_at, texts_at = points
        metric.add(map(str, keys), images_at, texts, texts_at, range(len(some)))
    return {"recall@10": metric.compute()["t2i_recall@10"]}


# ---- one step of a large batch -------------------------------------------------------------------------------


def _prepared(setting: Setting, count: int, lora: bool) -> tuple[Any, dict[str, Any], Any]:
    """The model, a batch of `count` rows as the toolkit collates it, and an optimizer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from toolkit_clip.collate import Collator
    from toolkit_clip.prepare import Prepare
    from toolkit_clip.settings import ClipSettings
    from transformers import CLIPModel, CLIPProcessor, set_seed

    from toolkit import Recipe

    processor = CLIPProcessor.from_pretrained(model_folder(setting), backend="pil")
    model = CLIPModel.from_pretrained(model_folder(setting)).train()
    recipe = Recipe(name="pairs", plugins=["clip"], cache={"enabled": False})
    ready = Prepare(recipe, processor)
    rows = pairs(setting, count)["train"]
    rows = [rows[place % len(rows)] for place in range(count)]
    collate = Collator(processor, ClipSettings())
    batch = collate([{**ready(row), "row_id": place} for place, row in enumerate(rows)])
    set_seed(setting.seed)
    if lora:
        model = get_peft_model(model, LoraConfig(r=16, target_modules=["q_proj", "v_proj"]))
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    return model, batch, torch.optim.SGD(trained, lr=0.1)


def _steps(setting: Setting, lora: bool, step: Callable[[Any, dict[str, Any]], float]) -> Measured:
    """One step to warm up, and one that is measured; the loss is of the step that was measured."""
    model, batch, optimizer = _prepared(setting, LARGE[setting.size], lora)
    step(model, batch)
    optimizer.step()
    optimizer.zero_grad()
    with measuring() as meter:
        loss = step(model, batch)
        optimizer.step()
        optimizer.zero_grad()
    return meter.measured({"rows": LARGE[setting.size]}, {"loss": loss})


def exact(setting: Setting, lora: bool) -> Measured:
    """Every image with every caption of the batch."""
    from toolkit_clip.settings import ClipSettings
    from toolkit_clip.step import Step
    from torch.autograd import backward

    rows, made = LARGE[setting.size], Step(ClipSettings(micro_batch_size=PART))

    def step(model: Any, batch: dict[str, Any]) -> float:
        return float(made(model, batch, lambda total: backward(total / rows)).total) / rows

    return _steps(setting, lora, step)


def parts(setting: Setting, lora: bool) -> Measured:
    """The same rows in parts that know nothing of one another: another task, and the least that this one can take."""
    from toolkit_clip.lengths import by_length

    from toolkit import unwrapped

    def step(model: Any, batch: dict[str, Any]) -> float:
        total = 0.0
        for part in _in_parts(batch):
            with by_length(unwrapped(model)):
                made = model(**part, return_loss=True)
            loss = made.loss * len(part["pixel_values"]) / LARGE[setting.size]
            loss.backward()
            total += float(loss)
        return total

    return _steps(setting, lora, step)


def open_clip(setting: Setting, lora: bool) -> Measured:
    """open_clip's accumulation: for each part again the loss of all features, one part's with gradients.

    The gradients of the towers are exact so; that of the scale comes once from each part, so that where it trains the
    next loss is another. Captions are read in groups by length here as on the other sides.
    """
    import torch
    from open_clip.loss import ClipLoss
    from toolkit_clip.lengths import by_length

    from toolkit import unwrapped

    contrast = ClipLoss()

    def embeds(model: Any, part: dict[str, Any]) -> tuple[Any, Any]:
        with by_length(unwrapped(model)):
            made = model(**part)
        return made.image_embeds, made.text_embeds

    def step(model: Any, batch: dict[str, Any]) -> float:
        cut = list(_in_parts(batch))
        with torch.no_grad():
            known = [embeds(model, part) for part in cut]
        total = 0.0
        for place, part in enumerate(cut):
            now = [*known[:place], embeds(model, part), *known[place + 1 :]]
            images, texts = (torch.cat(one) for one in zip(*now, strict=True))
            loss = contrast(images, texts, _scale(model).exp())
            loss.backward()
            total = float(loss)
        return total

    return _steps(setting, lora, step)


def _scale(model: Any) -> Any:
    return model.get_base_model().logit_scale if hasattr(model, "get_base_model") else model.logit_scale


def _in_parts(batch: dict[str, Any]) -> Any:
    from toolkit_clip.pixels import normalised
    from toolkit_clip.step import parts_of

    for part in parts_of(batch, PART):
        pixels = normalised(part.pop("pixels"), part.pop("mean"), part.pop("std"))
        yield {**part, "pixel_values": pixels}


def _of_size(setting: Setting, count: int) -> Measured:
    """A step of `count` rows; memory is what it adds to the model and the pixels, which are there before."""
    _give_back_at_once()
    from toolkit_clip.settings import ClipSettings
    from toolkit_clip.step import Step
    from torch.autograd import backward

    model, batch, optimizer = _prepared(setting, count, lora=False)
    step = Step(ClipSettings(micro_batch_size=PART))
    small = {**batch, **{key: batch[key][:PART] for key in ("pixels", "input_ids", "image_of")}}
    small |= {"attention_mask": batch["attention_mask"][:PART], "num_targets": PART}
    step(model, small, lambda total: backward(total))  # gradients have their place
    optimizer.zero_grad(set_to_none=False)
    with measuring() as meter:
        loss = step(model, batch, lambda total: backward(total / count))
    return meter.measured({"rows": count}, {"loss": float(loss.total) / count})


def _give_back_at_once() -> None:
    """Have the C library return what is freed to the system, so that the peak is of what is held, not of its gaps."""
    import ctypes

    trim_threshold, mmap_threshold, most = -1, -3, 1 << 18
    with contextlib.suppress(AttributeError):  # of another C library
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, most)


# ---- many pairs ----------------------------------------------------------------------------------------------


def ranked(setting: Setting) -> Measured:
    """`recall@k` both ways over pairs in one process."""
    import torch
    from toolkit_clip.metrics import Retrieval

    count, at_once = PAIRS[setting.size], 250
    generator = torch.Generator().manual_seed(setting.seed)
    metric = Retrieval()
    with measuring() as meter:
        for start in range(0, count, at_once):
            images = torch.nn.functional.normalize(torch.randn(at_once, WIDTH, generator=generator))
            noise = torch.randn(at_once, WIDTH, generator=generator) / 4
            texts = torch.nn.functional.normalize(images + noise)
            keys = range(start, start + at_once)
            metric.add(keys, images, [str(key) for key in keys], texts, range(at_once))
        found = metric.compute()
    features = 2 * count * WIDTH * 4 / 2**20
    return meter.measured({"pairs": count, "features_mb": features}, {"recall@10": found["t2i_recall@10"]})


def _large(lora: bool, at_most: float) -> Workload:
    named = {"parts": parts, "toolkit": exact, "open_clip": open_clip}
    sides = [
        Side(name, partial(run, lora=lora), needs=("open_clip",) if name == "open_clip" else ())
        for name, run in named.items()
    ]
    return Workload(
        f"clip-large-batch{'-lora' if lora else ''}",
        f"a step of one large contrastive batch, {PART} rows at once, {'LoRA' if lora else 'all weights'}",
        sides=sides,
        baseline="parts",
        targets=[Target("toolkit", "seconds", at_most=at_most)],
        prepare=prepare,
    )


WORKLOADS = [
    Workload(
        "clip-locked",
        f"LoRA on the text tower, {EPOCHS} epochs, the same pairs in the same order",
        sides=[Side("script", script), Side("toolkit", toolkit), Side("warm", warm)],
        baseline="script",
        targets=[Target("toolkit", "speed", at_least=2.2), Target("warm", "speed", at_least=5.0)],
        prepare=prepare,
    ),
    _large(lora=False, at_most=1.4),
    _large(lora=True, at_most=1.6),
    Workload(
        "clip-memory",
        f"a step of 64 and of 4096 rows, {PART} at once",
        sides=[Side("64", partial(_of_size, count=64)), Side("4096", partial(_of_size, count=4096))],
        baseline="64",
        targets=[Target("4096", "grown_mb", at_most=1.1)],
        prepare=prepare,
        sizes=("full",),
    ),
    Workload(
        "recall",
        f"recall both ways over pairs of width {WIDTH}",
        sides=[Side("toolkit", ranked)],
        baseline="toolkit",
        targets=[Target("toolkit", "grown_mb", at_most=320, alone=True)],
    ),
]
