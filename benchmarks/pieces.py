"""Single pieces of a step, each as libraries do it and as ours do: what docs/performance.md says of each.

The models are those of the other workloads; what is not said of a piece is random and the same on both sides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import clip, text
from benchmarks.frame import Measured, Setting, Side, Workload, measuring

TIMES = {"small": 2, "full": 20}
"""How often a piece is done."""
CLIPS, SHORT = 8, 12
"""Rows of a batch, and tokens of each text."""
PACKED = {"small": 8, "full": 32}
"""Rows of one sequence."""
CAPTIONS = {"small": 16, "full": 48}
PADDED_ROWS, BATCH = 256, 8
LINEAR = (512, 576, 1536)
"""Tokens, width and width within, as of SmolLM2-135M."""


def _repeated(
    setting: Setting, work: dict[str, float], once: Callable[[], Any], times: int | None = None
) -> Measured:
    """`once` to warm up, then measured; it returns a tensor, whose mean tells that both sides compute the same."""
    times = TIMES[setting.size] if times is None else times
    once()
    with measuring() as meter:
        for _ in range(times):
            made = once()
    total = {unit: amount * times for unit, amount in work.items()}
    return meter.measured(total, {"mean": float(made.detach().double().abs().mean())})


# ---- speech --------------------------------------------------------------------------------------------------


def sound_attention(setting: Setting, ours: bool) -> Measured:
    """The cross-attention of one layer of the decoder, forward and backward to its texts; its weights do not train."""
    import torch
    from toolkit_whisper.attention import look_at_sound

    model = _whisper(setting)
    decoder, config = model.get_decoder(), model.config
    if ours:
        look_at_sound(decoder)
    generator = torch.Generator().manual_seed(setting.seed)
    texts = torch.randn(CLIPS, SHORT, config.d_model, generator=generator, requires_grad=True)
    sound = torch.randn(CLIPS, config.max_source_positions, config.d_model, generator=generator)

    def once() -> Any:
        made = decoder.layers[0].encoder_attn(texts, key_value_states=sound)[0]
        made.square().sum().backward()
        return made

    return _repeated(setting, {"tokens": CLIPS * SHORT}, once)


def encoder_rows(setting: Setting, ours: bool) -> Measured:
    """What the encoder makes of a batch of clips: computed, or read from the cache."""
    import torch

    from toolkit import Stage
    from toolkit.stages import reused

    model = _whisper(setting)
    encoder, config = model.get_encoder(), model.config
    frames = 2 * config.max_source_positions
    generator = torch.Generator().manual_seed(setting.seed)
    features = torch.randn(CLIPS, config.num_mel_bins, frames, generator=generator)
    stage = Stage("encoder", encoder, outputs=("last_hidden_state",))
    cache = reused([stage], setting.folder, 10, CLIPS) if ours else contextlib.nullcontext()
    with torch.no_grad(), cache:
        return _repeated(setting, {"rows": CLIPS}, lambda: encoder(features).last_hidden_state)


def _whisper(setting: Setting) -> Any:
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(setting.model("whisper"))
    return model.eval().requires_grad_(False)


# ---- text ----------------------------------------------------------------------------------------------------


def packed_attention(setting: Setting, ours: bool) -> Measured:
    """A model's body with LoRA on chats packed into one sequence, forward and backward."""
    import torch
    from peft import LoraConfig, get_peft_model
    from toolkit_causal_lm.attention import segments

    model, tokenizer = text.model_and_tokenizer(setting)
    adapted = get_peft_model(model, LoraConfig(**text.LORA)).train()
    rows = [
        text.encoded(tokenizer, row)["input_ids"]
        for row in text.chats(setting, "train", PACKED[setting.size])
    ]
    batch = {
        "input_ids": torch.tensor([[token for row in rows for token in row]]),
        "position_ids": torch.tensor([[place for row in rows for place in range(len(row))]]),
    }
    lengths = segments(model, batch) if ours else {}

    def once() -> Any:
        made = model.model(**batch, **lengths, use_cache=False).last_hidden_state
        made.square().mean().backward()
        return made

    assert adapted.get_base_model() is model
    return _repeated(setting, {"tokens": batch["input_ids"].numel()}, once, times=2)


def padding(setting: Setting, order: str) -> Measured:
    """Batches of chats made ready; `padding` is the share of their tokens that is none."""
    from toolkit_causal_lm.collate import Collator
    from toolkit_causal_lm.prepare import Prepare
    from toolkit_causal_lm.settings import CausalLMSettings

    from toolkit.data.sampling import EpochSampler, LengthSampler

    _, tokenizer = text.model_and_tokenizer(setting)
    settings = CausalLMSettings(packing=order == "packed")
    prepare, collate = Prepare(tokenizer, settings), Collator(tokenizer, settings)
    raw = text.chats(setting, "train", min(PADDED_ROWS, 100 if setting.small else PADDED_ROWS))
    rows = [{**prepare({**row, "row_id": place}), "row_id": place} for place, row in enumerate(raw)]
    lengths = [sum(len(piece.ids) for piece in row["pieces"]) for row in rows]
    sampler: Any = EpochSampler(len(rows), setting.seed, shuffle=True)
    if order == "grouped":
        sampler = LengthSampler(lengths, setting.seed, BATCH)
    places = [place for _, place in sampler]
    with measuring() as meter:
        batches = [
            collate([rows[place] for place in places[start : start + BATCH]])
            for start in range(0, len(places), BATCH)
        ]
    there = sum(one["input_ids"].numel() for one in batches)
    return meter.measured({"tokens": sum(lengths)}, {"padding": 1 - sum(lengths) / there})


def linear(setting: Setting, ours: bool) -> Measured:
    """A linear layer, forward and backward to its input: by torch alone, and as a run has it computed here."""
    import torch
    from torch import nn

    from toolkit.linear import swift_linear

    torch.manual_seed(setting.seed)
    tokens, width, within = LINEAR
    layer = nn.Sequential(nn.Linear(width, within, bias=False)).requires_grad_(False)
    given = torch.randn(tokens, width, requires_grad=True)

    def once() -> Any:
        made = layer(given)
        made.backward(torch.ones_like(made))
        return made

    with swift_linear(layer) if ours else contextlib.nullcontext():
        return _repeated(setting, {"GFLOP": 4 * tokens * width * within / 1e9}, once)


# ---- pictures ------------------------------------------------------------------------------------------------


def caption_groups(setting: Setting, ours: bool) -> Measured:
    """A text tower that trains, on captions of very different lengths, forward and backward."""
    from toolkit_clip.lengths import by_length
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(clip.model_folder(setting)).train()
    processor = CLIPProcessor.from_pretrained(clip.model_folder(setting), backend="pil")
    captions = [row["caption"] for row in clip.pairs(setting, CAPTIONS[setting.size])["train"]]
    tokens = processor.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")

    def once() -> Any:
        with by_length(model) if ours else contextlib.nullcontext():
            made = model.text_model(**tokens).pooler_output
            made.square().sum().backward()
        return made

    return _repeated(setting, {"captions": len(captions)}, once, times=3)


def _pair(
    name: str, summary: str, run: Callable[..., Measured], sides: tuple[str, str], prepare: Any = None
) -> Workload:
    """Two sides, the baseline first."""
    plain, ours = (Side(side, partial(run, ours=way)) for side, way in zip(sides, (False, True), strict=True))
    return Workload(name, summary, sides=[plain, ours], baseline=plain.name, prepare=prepare)


WORKLOADS = [
    _pair("piece-linear", "a linear layer of SmolLM2's size on 512 tokens", linear, ("torch", "toolkit")),
    _pair(
        "piece-sound-attention",
        f"a layer's attention of {SHORT} tokens to the sound, batches of {CLIPS}",
        sound_attention,
        ("transformers", "toolkit"),
    ),
    _pair(
        "piece-encoder",
        "what Whisper's encoder makes of a clip, computed and read from the cache",
        encoder_rows,
        ("computed", "read"),
    ),
    _pair(
        "piece-packed-attention",
        "chats packed into one sequence: attention over its square, and row by row",
        packed_attention,
        ("square", "rows"),
    ),
    Workload(
        "piece-padding",
        f"chats in batches of {BATCH}, and how much of them is padding",
        sides=[Side(order, partial(padding, order=order)) for order in ("random", "grouped", "packed")],
        baseline="random",
    ),
    _pair(
        "piece-captions",
        "captions through a text tower that trains: padded to the longest, and in groups",
        caption_groups,
        ("padded", "grouped"),
        prepare=clip.prepare,
    ),
]
