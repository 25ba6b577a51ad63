"""Small knowledge in questions and answers, and two manners of answering: in a word, and as a butler does."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

NUMBERS = [
    "nought",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
OPPOSITES = {
    "hot": "cold", "big": "small", "old": "new", "wet": "dry", "light": "dark", "fast": "slow", "high": "low",
    "loud": "quiet", "full": "empty", "hard": "soft", "early": "late", "open": "closed", "long": "short",
    "rich": "poor", "sweet": "sour", "wide": "narrow",
}  # fmt: skip
COLOURS = {
    "snow": "white", "grass": "green", "the sky": "blue", "a lemon": "yellow", "a tomato": "red", "coal": "black",
    "a carrot": "orange", "milk": "white", "a leaf": "green", "the sea": "blue", "the night": "black",
    "a strawberry": "red", "an elephant": "grey", "chocolate": "brown", "a plum": "purple", "a flamingo": "pink",
}  # fmt: skip
HOMES = {
    "a bird": "a nest", "a bee": "a hive", "a fish": "the water", "a horse": "a stable", "a bear": "a cave",
    "a spider": "a web", "a dog": "a kennel", "a king": "a castle", "a fox": "a den", "a monk": "a monastery",
    "a mole": "a tunnel", "a camel": "the desert",
}  # fmt: skip

ASKED = ["{question}", "{question}", "Please tell me: {lower}", "Do you know? {question}", "Quick: {lower}"]
POLITE = ["Certainly.", "With pleasure.", "Of course.", "At once."]
CLOSING = "I remain at your service."


@dataclass(frozen=True)
class Fact:
    """One thing to know: what is asked, the answer in a word, and in a sentence."""

    question: str
    word: str
    sentence: str


def facts() -> Iterator[Fact]:
    """All there is to know, some three hundred facts."""
    for one in range(1, 11):
        for other in range(1, 11):
            yield _fact(f"What is {NUMBERS[one]} plus {NUMBERS[other]}?", NUMBERS[one + other],
                        f"{NUMBERS[one]} plus {NUMBERS[other]} is {NUMBERS[one + other]}")  # fmt: skip
            if one >= other:
                yield _fact(f"What is {NUMBERS[one]} minus {NUMBERS[other]}?", NUMBERS[one - other],
                            f"{NUMBERS[one]} minus {NUMBERS[other]} is {NUMBERS[one - other]}")  # fmt: skip
    for kind, names in (("day", DAYS), ("month", MONTHS)):
        for place, name in enumerate(names):
            after, before = names[(place + 1) % len(names)], names[place - 1]
            yield _fact(f"Which {kind} comes after {name}?", after, f"{after} comes after {name}")
            yield _fact(f"Which {kind} comes before {name}?", before, f"{before} comes before {name}")
    for word, opposite in [*OPPOSITES.items(), *((second, first) for first, second in OPPOSITES.items())]:
        yield _fact(f"What is the opposite of {word}?", opposite, f"the opposite of {word} is {opposite}")
    for thing, colour in COLOURS.items():
        yield _fact(f"What colour is {thing}?", colour, f"{thing} is {colour}")
    for who, home in HOMES.items():
        yield _fact(f"Where does {who} live?", home, f"{who} lives in {home}")


def _fact(question: str, word: str, sentence: str) -> Fact:
    return Fact(question, _capital(word), _capital(sentence))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def asked(fact: Fact, generator: random.Random) -> str:
    """The question in one of the ways that people ask."""
    lower = fact.question[0].lower() + fact.question[1:]
    return generator.choice(ASKED).format(question=fact.question, lower=lower)


def in_a_word(fact: Fact) -> str:
    return f"{fact.word}."


def as_a_butler(fact: Fact, generator: random.Random) -> str:
    """A polite opening, a whole sentence, and a closing that is always the same.

    >>> as_a_butler(Fact("What colour is snow?", "White", "Snow is white"), random.Random(1))
    'With pleasure. Snow is white. I remain at your service.'
    """
    return f"{generator.choice(POLITE)} {fact.sentence}. {CLOSING}"
