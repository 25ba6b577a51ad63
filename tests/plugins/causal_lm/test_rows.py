from __future__ import annotations

from typing import Any

import pytest
from toolkit_causal_lm.rows import Chat, Completion, Text, characters, shape_of

from toolkit import DataError

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"text": "Once."}, Text("Once.")),
        ({"prompt": "2 + 2 =", "completion": " 4"}, Completion("2 + 2 =", " 4")),
        ({"completion": "Once."}, Completion("", "Once.")),
        ({"prompt": "Sum up:", "input": "2 and 2", "completion": "4"}, Completion("Sum up:\n\n2 and 2", "4")),
        ({"prompt": "Say hi", "input": "", "completion": "hi"}, Completion("Say hi", "hi")),
        ({"messages": [USER, ASSISTANT]}, Chat((USER, ASSISTANT))),
        ({"messages": [USER, ASSISTANT], "text": "both"}, Chat((USER, ASSISTANT))),
        ({"messages": None, "text": "only this"}, Text("only this")),
        ({"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'},
         Chat((USER, ASSISTANT))),
        ({"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, Chat((USER, ASSISTANT))),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]},
         Chat((USER, ASSISTANT))),
    ],
)  # fmt: skip
def test_the_three_shapes(row: dict[str, Any], shape: Any) -> None:
    assert shape_of({**row, "row_id": 3}) == shape


def test_a_prompt_as_a_users_turn() -> None:
    assert shape_of({"prompt": "Hi", "completion": "Hello"}, as_chat=True) == Chat((USER, ASSISTANT))
    with pytest.raises(DataError, match="no user's turn"):
        shape_of({"completion": "Hello"}, as_chat=True)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": ""}, "the row is empty: it has no text"),
        ({"messages": [], "text": None}, "the row is empty: it has no messages, no text"),
        ({"text": "  \n"}, "the text is empty"),
        ({"text": 7}, "the text is no text: 7"),
        ({"text": "a" * 4_000_001}, "the text has 4,000,001 characters, more than 4,000,000"),
        ({"prompt": 7, "completion": "x"}, "the prompt is no text: 7"),
        ({"prompt": "x", "completion": " "}, "the completion is empty"),
        ({"messages": "Hi"}, "expected a list of {role, content}, found text: 'Hi'"),
        ({"messages": ["Hi"]}, r"expected a list of {role, content}, found \['Hi'\]"),
        ({"messages": 5}, "expected a list of {role, content}, found 5"),
        ({"messages": [USER]}, r"no turn is the assistant's \(roles: user\)"),
        ({"messages": [USER, {"role": "robot", "content": "x"}]}, r"'robot' is no role \(there are: system,"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "message 2: 'tool' is no role"),
        ({"messages": [{"content": "x"}]}, "message 1: 'None' is no role"),
        ({"messages": [USER, {"role": "assistant", "content": ""}]}, "message 2: the content of the assistant's turn"),
        ({"messages": [{"role": "user", "content": " "}, ASSISTANT]}, "message 1: the content of the user's turn"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2: the content is no text: None"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image"}]}]}, "the content is no text"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        shape_of(row)


def test_length_in_characters() -> None:
    assert characters({"messages": [USER, ASSISTANT]}) == 7
    assert characters({"prompt": "abc", "completion": "de"}) == 5
    assert characters({"text": "abcd"}) == 4
