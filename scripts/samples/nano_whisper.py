"""A Whisper of nano size: the classes of the real one, with a window, a vocabulary and a width of its own."""

import json
from collections.abc import Iterable

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
MAX_TOKENS = 64  # of a transcript, with its special tokens
END, START, NO_TIMESTAMPS = "<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"
OTHER_SPECIALS = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>"]


def build_tokenizer(texts: Iterable[str], merged_size: int) -> WhisperTokenizer:
    """A byte-level BPE of at most `merged_size` tokens, then the special tokens and timestamps of English-only Whisper.

    All 256 bytes are in it, so any text can be encoded.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=merged_size, initial_alphabet=alphabet, show_progress=False)
    )
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokenizer = WhisperTokenizer(vocab=bpe.get_vocab(), merges=merges, pad_token=END, model_max_length=MAX_TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": [START, *OTHER_SPECIALS, NO_TIMESTAMPS]})
    seconds = [step * 0.02 for step in range(WINDOW_SECONDS * 50 + 1)]
    tokenizer.add_tokens([AddedToken(f"<|{second:.2f}|>", normalized=True) for second in seconds])
    tokenizer.set_prefix_tokens()
    return tokenizer


def build_processor(tokenizer: WhisperTokenizer) -> WhisperProcessor:
    """The tokenizer, with log-mel features of 80 bands over a window of 6 s."""
    return WhisperProcessor(WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW_SECONDS), tokenizer)


def build_model(tokenizer: WhisperTokenizer, width: int, layers: int, heads: int) -> WhisperForConditionalGeneration:
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
        max_source_positions=50 * WINDOW_SECONDS,
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
