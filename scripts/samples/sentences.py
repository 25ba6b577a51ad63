"""A closed domain of spoken commands, from a grammar of some fifty words, and the two ways people write them."""

import random
import re
from collections.abc import Container

SLOTS = {
    "switch": ["on", "off"],
    "open": ["open", "close"],
    "colour": ["red", "blue", "green", "white", "yellow"],
    "thing": ["lamp", "fan", "radio", "heater"],
    "leaf": ["door", "window", "curtain"],
    "room": ["kitchen", "bedroom", "garden", "hall", "office"],
    "name": ["Anna", "Peter", "Maria", "Tom"],
    "music": ["jazz", "rock", "piano"],
    "number": ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"],
    "unit": ["minutes", "hours"],
}

PATTERNS = [
    "Turn {switch} the {colour} {thing} in the {room}.",
    "Turn the {colour} {thing} {switch} in {number} {unit}.",
    "Please {open} the {colour} {leaf} in the {room}.",
    "Set a timer for {number} {unit}, please.",
    "Play {music} in the {room} for {number} {unit}.",
    "Call {name} in {number} {unit}.",
    "Remind {name} to {open} the {room} {leaf} in {number} {unit}.",
    "Tell {name} to turn {switch} the {thing}.",
    "Is the {colour} {thing} in the {room} {switch}?",
    "Did {name} {open} the {colour} {leaf}?",
]

DIGITS = {word: str(value) for value, word in enumerate(SLOTS["number"][:-1], start=2)} | {"twelve": "12"}


def draw(generator: random.Random) -> str:
    """One sentence: each pattern is as likely as the next, and so is each word of a slot."""
    pattern = generator.choice(PATTERNS)
    return pattern.format_map({slot: generator.choice(words) for slot, words in SLOTS.items()})


def draw_outside(reserved: Container[str], generator: random.Random) -> str:
    """One sentence that is not reserved."""
    while (sentence := draw(generator)) in reserved:
        pass
    return sentence


def draw_distinct(count: int, generator: random.Random, taken: set[str]) -> list[str]:
    """`count` sentences that differ from each other and from the `taken`, to which they are added."""
    sentences: list[str] = []
    while len(sentences) < count:
        sentences.append(draw_outside(taken, generator))
        taken.add(sentences[-1])
    return sentences


def casual(sentence: str) -> str:
    """The sentence as a hasty typist writes it.

    >>> casual("Call Anna in nine minutes.")
    'call anna in 9 minutes'
    """
    words = re.sub(r"[^a-z ]", "", sentence.lower()).split()
    return " ".join(DIGITS.get(word, word) for word in words)
