"""A Whisper of nano size: the classes of the real one, with a window, a vocabulary and a width of its own."""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

WINDOW_SECONDS = 6
POSITIONS_PER_SECOND = 50  # of the encoder
SAMPLING_RATE = 16_000  # Hz
MAX_TOKENS = 64  # of a transcript, with its special tokens
END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
OTHER_SPECIALS = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>"]

Utterance: TypeAlias = tuple[str, np.ndarray]  # a transcript, and its audio: (samples,) float32 at 16 kHz


def build_tokenizer(texts: Iterable[str], merged_size: int) -> WhisperTokenizer:
    """A byte-level BPE of at most `merged_size` tokens, then the special tokens and timestamps of English-only Whisper.

    All 256 bytes are in it, so any text can be encoded.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=merged_size, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokenizer = WhisperTokenizer(
        vocab=bpe.get_vocab(), merges=merges, pad_token=END, model_max_length=MAX_TOKENS
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [START, *OTHER_SPECIALS, NO_TIMESTAMPS]})
    seconds = [step / POSITIONS_PER_SECOND for step in range(POSITIONS_PER_SECOND * WINDOW_SECONDS + 1)]
    tokenizer.add_tokens([AddedToken(f"<|{second:.2f}|>", normalized=True) for second in seconds])
    tokenizer.set_prefix_tokens()
    return tokenizer


def build_processor(tokenizer: WhisperTokenizer) -> WhisperProcessor:
    """The tokenizer, with log-mel features of 80 bands over a window of 6 s."""
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS), tokenizer)


def build_model(
    tokenizer: WhisperTokenizer, width: int, layers: int, heads: int
) -> WhisperForConditionalGeneration:
    """An untrained model for the tokenizer, with the generation settings of an English-only Whisper."""
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends |= {"pad_token_id": tokenizer.pad_token_id}
    ends |= {"decoder_start_token_id": tokenizer.convert_tokens_to_ids(START)}
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=POSITIONS_PER_SECOND * WINDOW_SECONDS,
        max_target_positions=MAX_TOKENS,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **ends,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=tokenizer.convert_tokens_to_ids(NO_TIMESTAMPS),
        prev_sot_token_id=tokenizer.convert_tokens_to_ids("<|startofprev|>"),
        suppress_tokens=tokenizer.convert_tokens_to_ids([START, *OTHER_SPECIALS]),
        begin_suppress_tokens=[tokenizer.convert_tokens_to_ids("Ġ"), tokenizer.eos_token_id],
        max_initial_timestamp_index=50,
        max_length=MAX_TOKENS,
        **ends,
    )
    return model


def train(
    model: WhisperForConditionalGeneration,
    processor: WhisperProcessor,
    draw_batch: Callable[[], Sequence[Utterance]],
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
        loss = model(**collate(draw_batch(), processor)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  step {step} of {steps}: loss {loss.item():.3f} nats a token", flush=True)


def collate(batch: Sequence[Utterance], processor: WhisperProcessor) -> dict[str, torch.Tensor]:
    """`input_features` (batch, mel, frames), log-mel; `labels` (batch, tokens), int64, padding = -100."""
    texts, audio = zip(*batch, strict=True)
    # The model puts the first token, <|startoftranscript|>, before the labels by itself.
    rows = [torch.tensor(ids[1:]) for ids in processor.tokenizer(list(texts)).input_ids]
    labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    return {"input_features": extract(list(audio), processor), "labels": labels}


def extract(audio: list[np.ndarray], processor: WhisperProcessor) -> torch.Tensor:
    """Log-mel features (batch, mel, frames) of clips (samples,) at 16 kHz, padded to the window."""
    features = processor.feature_extractor(audio, sampling_rate=SAMPLING_RATE, return_tensors="pt")
    input_features: torch.Tensor = features.input_features
    return input_features


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, audio: list[np.ndarray]
) -> list[str]:
    """What the model hears in the clips, by greedy search."""
    tokens = model.eval().generate(input_features=extract(audio, processor))  # (batch, tokens)
    texts: list[str] = processor.batch_decode(tokens, skip_special_tokens=True)
    return texts


def save(model: WhisperForConditionalGeneration, processor: WhisperProcessor, folder: Path) -> None:
    """Write a model folder with weights in float16; its config makes transformers load them as float32."""
    shutil.rmtree(folder, ignore_errors=True)
    weights = {name: weight.half() for name, weight in model.state_dict().items()}
    del weights["proj_out.weight"]  # the same as the decoder's embedding
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    # Without this file the tokenizer's `normalize` fails. It maps British to American spelling: here, nothing.
    (folder / "normalizer.json").write_text("{}\n")
