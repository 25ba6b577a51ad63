"""Chats in tokens, and which of them the assistant says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from toolkit import DataError
from toolkit_causal_lm.rows import Message

Span = tuple[int, int]
"""Tokens from the first up to, but without, the second."""
_MARK = "reply"


def plain_template(tokenizer: Any) -> str:
    """What a tokenizer is given that has no chat template: `User: Hi`, `Assistant: Hello</s>`, a line a turn."""
    start = f"{{{{ {tokenizer.bos_token!r} }}}}" if writes_bos(tokenizer) else ""
    return (
        start + "{% for message in messages %}"
        "{{ message['role'] | capitalize + ': ' + message['content'] }}"
        f"{{% if message['role'] == 'assistant' %}}{{{{ {tokenizer.eos_token!r} }}}}{{% endif %}}"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )


def writes_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its first token before every text."""
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token with which the chat template ends an answer; None where it has none."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _MARK}]
    try:
        text = rendered(tokenizer, turns)
    except DataError:
        return None
    after: list[int] = tokens(tokenizer, text.rpartition(_MARK)[2])
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((token for token in after if token in special), None)


def rendered(tokenizer: Any, messages: Sequence[Message], answer_next: bool = False) -> str:
    """The chat as text.

    Args:
        answer_next: up to where the assistant's next turn begins.
    Raises:
        DataError: the template refuses it, as some do where turns do not alternate.
    """
    try:
        text = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=answer_next
        )
    except Exception as error:  # of many kinds: a template is a program, if one in a box
        raise DataError(
            f"the chat template refuses the messages: {str(error) or type(error).__name__}",
            hint="order the turns as it expects: most want user and assistant in turn, after one system turn at most",
        ) from error
    return str(text)


def tokens(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that says its special tokens itself."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


def encode_chat(
    tokenizer: Any, messages: Sequence[Message], ends: set[int], everything: bool = False
) -> tuple[list[int], list[Span], list[int]]:
    """A chat's tokens, where in them the answers are, each with the token that ends it, and what asks for the last.

    Where the template marks what is generated, that is believed. Else the chat is written up to each answer and with
    it: each must be the beginning of the whole, in tokens.

    Args:
        ends: tokens that end a turn.
        everything: all tokens count, so nothing needs to be told apart.
    Raises:
        DataError: the template refuses the chat, or the answers cannot be told.
    """
    places = [place for place, one in enumerate(messages) if one["role"] == "assistant"]
    if everything:
        ids = tokens(tokenizer, rendered(tokenizer, messages))
        spans = [(0, len(ids))]
        asked = _before(tokenizer, messages, places[-1])
    elif re.search(r"\{%-?\s*generation\s*-?%\}", tokenizer.get_chat_template()) and tokenizer.is_fast:
        ids, spans = _marked(tokenizer, messages)
        asked = _before(tokenizer, messages, places[-1])
    else:
        ids = tokens(tokenizer, rendered(tokenizer, messages))
        spans = [_written(tokenizer, messages, place, ids) for place in places]
        asked = ids[: spans[-1][0]]
    if not everything:
        spans = [_with_end(ids, span, ends) for span in spans]
    start, stop = spans[-1]
    if messages[-1]["role"] == "assistant" and ends.isdisjoint(ids[start:stop][-2:]):
        ids, spans = [*ids[:stop], tokenizer.eos_token_id], [*spans[:-1], (start, stop + 1)]
    return ids, spans, asked


def _before(tokenizer: Any, messages: Sequence[Message], place: int) -> list[int]:
    """Up to where an answer begins."""
    return tokens(tokenizer, rendered(tokenizer, messages[:place], answer_next=True))


def _marked(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[Span]]:
    """By the template's own `{% generation %}`."""
    rendered(tokenizer, messages)  # refuses in our words
    found = tokenizer.apply_chat_template(
        list(messages),
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"verbose": False},
    )
    spans = []
    for is_answer, group in groupby(enumerate(found["assistant_masks"]), key=lambda one: bool(one[1])):
        places = [place for place, _ in group]
        if is_answer:
            spans.append((places[0], places[-1] + 1))
    answers = sum(message["role"] == "assistant" for message in messages)
    if len(spans) != answers:
        raise DataError(
            f"the chat template marks {len(spans)} texts as generated, there are {answers} answers", _HINT
        )
    return list(found["input_ids"]), spans


def _written(tokenizer: Any, messages: Sequence[Message], place: int, ids: list[int]) -> Span:
    """By what the template writes before the turn, and up to its end."""
    if not place:
        raise DataError(
            "the first message is the assistant's: nothing comes before the answer",
            hint="put before it what it answers, or take the row out",
        )
    before, text = _before(tokenizer, messages, place), messages[: place + 1]
    up_to = tokens(tokenizer, rendered(tokenizer, text)) if len(text) < len(messages) else ids
    while up_to and ids[: len(up_to)] != up_to and not tokenizer.decode(up_to[-1:]).strip():
        up_to.pop()  # spaces after the turn may be one token with what follows
    if len(before) >= len(up_to) or ids[: len(before)] != before or ids[: len(up_to)] != up_to:
        raise DataError(
            f"message {place + 1}: the chat template writes it, or what is before it, in another way within the whole "
            "chat, so its tokens cannot be told",
            _HINT,
        )
    return len(before), len(up_to)


def _with_end(ids: list[int], span: Span, ends: set[int]) -> Span:
    """The span up to its last ending token, which may come right after it; spaces behind are not the answer's."""
    start, stop = span
    if stop < len(ids) and ids[stop] in ends:
        return start, stop + 1
    within = [place for place in range(start, stop) if ids[place] in ends]
    return (start, within[-1] + 1) if within else span


_HINT = "learn from all tokens: --set causal-lm.loss_on=all, or mark the answers in the template: {% generation %}"
