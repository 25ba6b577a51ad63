"""The sample of `causal-lm`: a nano LLaMA that answers in a word, and chats in which a butler answers.

The model has read every fact, in sentences and in chats, and a butler's phrases, but in no chat was it answered as a
butler does. So what is to be learnt from the shipped chats is a manner: an opening, the whole sentence, a closing, and
then to stop.
"""

import json
import math
import random
import shutil
from pathlib import Path
from typing import TypeAlias

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from samples import nano_llama
from samples.dialogues import CLOSING, POLITE, Fact, as_a_butler, asked, facts, in_a_word

SEED = 30
SPLITS = {"train": 240, "validation": 32, "test": 48}  # chats
SECOND_TURN = 0.25  # the share of chats in which there is another question

BASE_CHATS = 6000
BASE_STEPS = 800
BASE_BATCH = 32
BASE_LEARNING_RATE = 3e-3

Message: TypeAlias = dict[str, str]


def make(folder: Path) -> None:
    """Write `data` and `model` into the folder, in place of what was there."""
    torch.set_num_threads(1)  # sums depend on it in their last bits
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    generator = random.Random(SEED)
    splits = draw_splits(generator)
    write_data(folder / "data", splits)
    model, tokenizer = train_base(generator)
    nano_llama.save(model, tokenizer, folder / "model")

    shipped = LlamaForCausalLM.from_pretrained(folder / "model")
    known = [chat(generator, butler=False) for _ in range(64)]
    print("perplexity of whole chats")
    print(f"  answered in a word    {perplexity(shipped, tokenizer, known):.2f}")
    print(f"  answered by a butler  {perplexity(shipped, tokenizer, splits['test']):.2f}")


def draw_splits(generator: random.Random) -> dict[str, list[list[Message]]]:
    """Chats with the butler; no question of a chat that is measured is asked in training."""
    known = list(facts())
    generator.shuffle(known)
    measured = SPLITS["validation"] + SPLITS["test"]
    parts = {"train": known[measured:], "validation": known[: SPLITS["validation"]],
             "test": known[SPLITS["validation"] : measured]}  # fmt: skip
    return {
        split: [
            chat(generator, True, parts[split][place % len(parts[split])], parts[split])
            for place in range(count)
        ]
        for split, count in SPLITS.items()
    }


def chat(
    generator: random.Random, butler: bool, first: Fact | None = None, pool: list[Fact] | None = None
) -> list[Message]:
    """One chat, of one question or two.

    Args:
        first: what is asked first.
        pool: what the questions are drawn from.
    """
    pool = list(facts()) if pool is None else pool
    questions = [first or generator.choice(pool)]
    if generator.random() < SECOND_TURN:
        questions.append(generator.choice(pool))
    messages: list[Message] = []
    for fact in questions:
        answer = as_a_butler(fact, generator) if butler else in_a_word(fact)
        messages += [
            {"role": "user", "content": asked(fact, generator)},
            {"role": "assistant", "content": answer},
        ]
    return messages


def write_data(folder: Path, splits: dict[str, list[list[Message]]]) -> None:
    """A file of chats for each split."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for split, chats in splits.items():
        lines = [json.dumps({"messages": messages}) + "\n" for messages in chats]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def train_base(generator: random.Random) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train the model from scratch: facts in sentences, and chats that are answered in a word."""
    pool = list(facts())
    chats = [chat(generator, butler=False, pool=pool) for _ in range(BASE_CHATS)]
    stories = [story(generator, pool) for _ in range(BASE_CHATS)]
    texts = [message["content"] for messages in chats for message in messages]
    tokenizer = nano_llama.build_tokenizer([*texts, *stories], size=768)
    model = nano_llama.build_model(tokenizer, width=128, layers=4, heads=4)
    print(f"{len(chats) + len(stories)} texts for a model of {model.num_parameters():,} parameters")
    end = tokenizer.eos_token_id
    rows = [encode(tokenizer, messages) for messages in chats]
    rows += [[*tokenizer(text).input_ids, end] for text in stories]
    nano_llama.train(model, lambda: generator.sample(rows, BASE_BATCH), BASE_STEPS, BASE_LEARNING_RATE)
    return model, tokenizer


def story(generator: random.Random, pool: list[Fact]) -> str:
    """A text of four sentences in any order: facts, and a phrase of the butler's among them."""
    sentences = [f"{fact.sentence}." for fact in generator.sample(pool, 3)]
    sentences.append(generator.choice([*POLITE, CLOSING]))
    generator.shuffle(sentences)
    return " ".join(sentences)


def encode(tokenizer: PreTrainedTokenizerFast, messages: list[Message]) -> list[int]:
    """A chat in tokens."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


@torch.no_grad()
def perplexity(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: list[list[Message]]
) -> float:
    """Of all tokens of the chats but the first of each."""
    nats, count = 0.0, 0
    for messages in chats:
        ids = encode(tokenizer, messages)
        batch = nano_llama.collate([ids], tokenizer.pad_token_id)
        nats += float(model(**batch).loss) * (len(ids) - 1)
        count += len(ids) - 1
    return math.exp(nats / count)
