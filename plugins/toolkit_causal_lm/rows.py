"""The three shapes of a raw row, and what is wrong with one that has none of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import DataError, Row

ROLES = ("system", "developer", "user", "assistant")
_OTHER_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
Message = dict[str, str]
MOST_CHARACTERS = 4_000_000
"""Of a text. A tokenizer takes some hundred bytes for each, and cannot be told to stop."""
_FILL_IN = "fill it in, or take the row out"
_TURNS = 'write turns: [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]'


@dataclass(frozen=True)
class Chat:
    """Turns in order, each `{"role", "content"}`; at least one is the assistant's."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Completion:
    """A text and how it goes on; the prompt may be empty."""

    prompt: str
    completion: str


@dataclass(frozen=True)
class Text:
    """A text of which nothing is more of an answer than the rest."""

    text: str


Shape = Chat | Completion | Text


def shape_of(row: Row, as_chat: bool = False) -> Shape:
    """What a row is: a chat where it has `messages`, else a completion where it has one, else a text.

        >>> shape_of({"prompt": "2 + 2 =", "completion": " 4", "row_id": 0})
        Completion(prompt='2 + 2 =', completion=' 4')

    Args:
        as_chat: a prompt and its completion are a chat of two turns.
    Raises:
        DataError: it has none of the three, or what it has cannot be used.
    """
    if _given(row.get("messages")):
        return Chat(_messages(row["messages"]))
    if _given(row.get("completion")):
        asked = [_text(row, name) for name in ("prompt", "input") if _given(row.get(name))]
        prompt, completion = "\n\n".join(asked), _text(row, "completion")
        if not as_chat:
            return Completion(prompt, completion)
        if not prompt.strip():
            raise DataError(
                "the prompt is empty, so there is no user's turn",
                hint="fill it in, or leave causal-lm.as_chat out",
            )
        user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}
        return Chat((user, assistant))
    if _given(row.get("text")):
        return Text(_text(row, "text"))
    raise DataError(_nothing(row), hint=_FILL_IN)


def characters(row: Row) -> float:
    """How long a raw row is, in characters."""
    shape = shape_of(row)
    if isinstance(shape, Chat):
        return float(sum(len(message["content"]) for message in shape.messages))
    return float(len(shape.text) if isinstance(shape, Text) else len(shape.prompt) + len(shape.completion))


def _given(value: Any) -> bool:
    """Whether a cell holds anything; numbers do, though they are no text."""
    return value is not None and not (hasattr(value, "__len__") and len(value) == 0)


def _nothing(row: Row) -> str:
    empty = [name for name in ("messages", "completion", "text") if name in row]
    return f"the row is empty: it has no {', no '.join(empty or ['text'])}"


def _text(row: Row, name: str) -> str:
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"the {name} is no text: {value!r:.60}", hint="write it as text, in quotes")
    if not value.strip():
        raise DataError(f"the {name} is empty", hint=_FILL_IN)
    _refuse_what_no_tokenizer_takes(f"the {name}", value)
    return value


def _refuse_what_no_tokenizer_takes(what: str, text: str) -> None:
    if len(text) > MOST_CHARACTERS:
        raise DataError(
            f"{what} has {len(text):,} characters, more than {MOST_CHARACTERS:,}",
            hint="divide it into several rows",
        )
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise DataError(
            f"{what} holds half a character (a lone surrogate)", hint="mend it, or take the row out"
        )


def _messages(given: Any) -> tuple[Message, ...]:
    if isinstance(given, str):
        given = _read(given)
    if not isinstance(given, Sequence) or not all(isinstance(one, Mapping) for one in given):
        raise DataError(f"messages: expected a list of {{role, content}}, found {given!r:.60}", hint=_TURNS)
    messages = tuple(_message(place, one) for place, one in enumerate(given, start=1))
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages)
        raise DataError(
            f"messages: no turn is the assistant's (roles: {roles})",
            hint="the assistant's turns are what is learnt: add one, or take the row out",
        )
    return messages


def _read(text: str) -> Any:
    """Messages in a table, whose cells are texts."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(
            f"messages: expected a list of {{role, content}}, found text: {text!r:.60}", hint=_TURNS
        ) from None


def _message(place: int, given: Mapping[str, Any]) -> Message:
    """One turn, spelt as chat templates have it; `from` and `value` are what ShareGPT calls them."""
    role, content = given.get("role", given.get("from")), given.get("content", given.get("value"))
    role = _OTHER_ROLES.get(str(role), role)
    if role not in ROLES:
        raise DataError(f"message {place}: '{role}' is no role (there are: {', '.join(ROLES)})", hint=_TURNS)
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = _joined(content)
    if not isinstance(content, str):
        raise DataError(f"message {place}: the content is no text: {content!r:.60}", hint=_TURNS)
    if not content.strip():
        raise DataError(f"message {place}: the content of the {role}'s turn is empty", hint=_FILL_IN)
    _refuse_what_no_tokenizer_takes(f"message {place}: the content", content)
    return {"role": role, "content": content}


def _joined(parts: Sequence[Any]) -> Any:
    """The text of a content in parts, where all of them are text."""
    texts = [part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text"]
    is_text = parts and len(texts) == len(parts) and all(isinstance(text, str) for text in texts)
    return "".join(map(str, texts)) if is_text else parts
