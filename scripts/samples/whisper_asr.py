"""The sample of `whisper-asr`: a nano Whisper that knows six speakers, and recordings of a seventh.

The recogniser hears the known speakers say thousands of sentences of the grammar, none of which is among the shipped
recordings. Its transcripts come in two styles, as they do on the web; those of the seventh speaker keep to one. So
there is a voice to be learnt and a style, and both can be learnt from a few minutes of speech.
"""

import csv
import random
import shutil
from pathlib import Path

import jiwer
import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from samples import nano_whisper
from samples.nano_whisper import Utterance
from samples.sentences import casual, draw_distinct, draw_outside
from samples.speech import Voice, engine, save

SEED = 20
SPLITS = {"train": 140, "validation": 24, "test": 40}  # clips
BITS = 11  # a sample; the noise of the rounding is some 50 dB below the speech

NEW_VOICE = Voice("en-029+anika", words_per_minute=185, pitch=55)  # Caribbean
KNOWN_VOICES = [
    Voice("en-us", pitch=40),
    Voice("en-us+f2", pitch=50),
    Voice("en-us-nyc+m7", pitch=50),
    Voice("en+m3", pitch=50),
    Voice("en+f3", pitch=50),
    Voice("en-gb-x-rp+m1", pitch=45),
]

BASE_UTTERANCES = 6000
BASE_CASUAL = 0.6  # the share of transcripts without capitals and punctuation
BASE_STEPS = 1200
BASE_BATCH = 32
BASE_LEARNING_RATE = 2e-3


def make(folder: Path) -> None:
    """Write `data` and `model` into the folder, in place of what was there."""
    torch.set_num_threads(2)  # sums depend on it in their last bits
    torch.use_deterministic_algorithms(True)  # else two threads add up the positions' gradients in any order
    torch.manual_seed(SEED)
    generator = random.Random(SEED)
    reserved: set[str] = set()  # sentences that the recogniser must not hear in training
    splits = {split: draw_distinct(count, generator, reserved) for split, count in SPLITS.items()}
    held_out = draw_distinct(64, generator, reserved)

    test = write_data(folder / "data", splits)["test"]
    known = [speak_as_known(sentence, generator) for sentence in held_out]
    model, processor = train_base(generator, reserved)
    nano_whisper.save(model, processor, folder / "model")

    shipped = WhisperForConditionalGeneration.from_pretrained(folder / "model")
    print("word error rate, normalised")
    print(f"  known voices  {word_error_rate(shipped, processor, known):.3f}")
    print(f"  new voice     {word_error_rate(shipped, processor, test):.3f}")


def write_data(folder: Path, splits: dict[str, list[str]]) -> dict[str, list[Utterance]]:
    """Have the new voice read the sentences, and lay the clips out by the audiofolder convention."""
    shutil.rmtree(folder, ignore_errors=True)
    spoken = {
        split: [(text, engine().say(text, NEW_VOICE)) for text in texts] for split, texts in splits.items()
    }
    for split, utterances in spoken.items():
        (folder / split).mkdir(parents=True)
        rows = [(f"{split}_{number:03d}.flac", *utterance) for number, utterance in enumerate(utterances)]
        for file_name, _, audio in rows:
            save(folder / split / file_name, audio, BITS)
        with (folder / split / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file_name", "text"])
            writer.writerows((file_name, text) for file_name, text, _ in rows)
    return spoken


def speak_as_known(text: str, generator: random.Random) -> Utterance:
    """One of the known voices says the text, a little quicker or slower, higher or lower, than the last time."""
    voice = generator.choice(KNOWN_VOICES)
    varied = Voice(
        voice.name,
        words_per_minute=generator.randint(155, 200),
        pitch=voice.pitch + generator.randint(-8, 8),
        pitch_range=generator.randint(35, 65),
    )
    return text, engine().say(text, varied)


def train_base(
    generator: random.Random, reserved: set[str]
) -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Train the recogniser from scratch on the known voices."""
    sentences = [draw_outside(reserved, generator) for _ in range(BASE_UTTERANCES)]
    tokenizer = nano_whisper.build_tokenizer([*sentences, *map(casual, sentences)], merged_size=512)
    processor = nano_whisper.build_processor(tokenizer)
    model = nano_whisper.build_model(tokenizer, width=96, layers=2, heads=4)
    print(f"{BASE_UTTERANCES} utterances for a model of {model.num_parameters():,} parameters")
    utterances = [speak_as_known(text, generator) for text in sentences]

    def draw_batch() -> list[Utterance]:
        batch = generator.sample(utterances, BASE_BATCH)
        return [(casual(text) if generator.random() < BASE_CASUAL else text, audio) for text, audio in batch]

    nano_whisper.train(model, processor, draw_batch, BASE_STEPS, BASE_LEARNING_RATE)
    return model, processor


def word_error_rate(
    model: WhisperForConditionalGeneration, processor: WhisperProcessor, utterances: list[Utterance]
) -> float:
    """Errors per spoken word, after the normalisation that Whisper's authors score with."""
    normalise = EnglishTextNormalizer({})
    heard = nano_whisper.transcribe(model, processor, [audio for _, audio in utterances])
    return jiwer.wer([normalise(text) for text, _ in utterances], [normalise(text) for text in heard])
