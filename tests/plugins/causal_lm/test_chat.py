"""Which tokens of a chat are the assistant's, whatever the template."""

from __future__ import annotations

from typing import Any

import pytest
from toolkit_causal_lm.chat import end_of_turn
from toolkit_causal_lm.encode import Encode
from toolkit_causal_lm.rows import Chat
from toolkit_causal_lm.settings import CausalLMSettings
from transformers import AutoTokenizer

from tests.plugins.causal_lm.conftest import CHATML, nano_tokenizer
from toolkit import DataError, ModelError

TURNS = [
    ("system", "Be brief."),
    ("user", "Hi"),
    ("assistant", "Yo"),
    ("user", "More"),
    ("assistant", "Yes.\n"),
]
MESSAGES = tuple({"role": role, "content": content} for role, content in TURNS)

INST = (  # as Mistral's: the template says <s>, answers end with </s>, system turns are refused
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + "
    "' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}{% else %}"
    "{{ raise_exception('no system turns') }}{% endif %}{% endfor %}"
)
GENERATION = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + "
    "'<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% endif %}"
)
WITHOUT_END = GENERATION.replace("{{ message['content'] + '<|im_end|>' }}{% endgeneration %}",
                                 "{{ message['content'] }}{% endgeneration %}{{ '<|im_end|>' }}")  # fmt: skip
ENDLESS = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
FORGETFUL = (  # only the last answer is written in full
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{{ message['content'] if loop.last or "
    "message['role'] == 'user' else '...' }}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def learnt(tokenizer: Any, messages: Any = MESSAGES, **settings: Any) -> list[str]:
    """The stretches of text that count."""
    encoded = Encode(tokenizer, CausalLMSettings(**settings))(Chat(tuple(messages)))
    found, before = [], False
    for token, counts in zip(encoded.ids, encoded.counts, strict=True):
        word = tokenizer.decode([token])
        if counts and before:
            found[-1] += word
        elif counts:
            found.append(word)
        before = counts
    return found


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, ["Yo<|im_end|>", "Yes.\n<|im_end|>"]),
        (GENERATION, ["Yo<|im_end|>", "Yes.\n<|im_end|>"]),
        (WITHOUT_END, ["Yo<|im_end|>", "Yes.\n<|im_end|>"]),
        (None, [" Yo</s>", " Yes.\n</s>"]),
        (ENDLESS, ["assistant: Yo\n", "assistant: Yes.\n\n</s>"]),
    ],
    ids=["chatml", "generation", "generation without the end", "none", "endless"],
)
def test_answers_count_with_their_ends(template: str | None, expected: list[str]) -> None:
    assert learnt(nano_tokenizer(template)) == expected


def test_the_template_s_first_token_is_not_doubled() -> None:
    tokenizer = nano_tokenizer(INST, bos=True)
    encoded = Encode(tokenizer, CausalLMSettings())(Chat(MESSAGES[1:]))
    assert tokenizer.decode(encoded.ids) == "<s>[INST] Hi [/INST] Yo</s>[INST] More [/INST] Yes.\n</s>"
    assert learnt(tokenizer, MESSAGES[1:]) == [" Yo</s>", " Yes.\n</s>"]
    assert tokenizer.decode(encoded.asked) == "<s>[INST] Hi [/INST] Yo</s>[INST] More [/INST]"
    made_up = nano_tokenizer(None, bos=True)
    assert made_up.decode(Encode(made_up, CausalLMSettings())(Chat(MESSAGES[1:3])).ids) == (
        "<s>User: Hi\nAssistant: Yo</s>\n"
    )


def test_what_is_asked_is_what_generation_begins_with() -> None:
    tokenizer = nano_tokenizer()
    encoded = Encode(tokenizer, CausalLMSettings())(Chat(MESSAGES))
    prompt = tokenizer.apply_chat_template(list(MESSAGES[:4]), add_generation_prompt=True)["input_ids"]
    assert encoded.asked == prompt
    assert encoded.ids[: len(prompt)] == prompt
    assert encoded.answer == "Yes."


def test_a_template_that_refuses() -> None:
    with pytest.raises(DataError, match="the chat template refuses the messages: no system turns"):
        learnt(nano_tokenizer(INST))


def test_answers_that_cannot_be_told_are_no_guess() -> None:
    with pytest.raises(
        DataError, match="message 3: the chat template writes it, or what is before it, in another way"
    ):
        learnt(nano_tokenizer(FORGETFUL))
    assert learnt(nano_tokenizer(FORGETFUL), MESSAGES[1:3]) == ["Yo<|im_end|>"]
    (whole,) = learnt(nano_tokenizer(FORGETFUL), loss_on="all")
    assert whole.endswith("assistant\nYes.\n<|im_end|>\n")


def test_a_template_that_marks_too_little() -> None:
    unmarked = GENERATION.replace("message['role'] == 'assistant'", "loop.last")
    with pytest.raises(DataError, match="marks 1 texts as generated, there are 2 answers"):
        learnt(nano_tokenizer(unmarked))


def test_all_tokens_count_but_the_first() -> None:
    tokenizer = nano_tokenizer()
    (whole,) = learnt(tokenizer, loss_on="all")
    assert "<|im_start|>" + whole == tokenizer.apply_chat_template(list(MESSAGES), tokenize=False)


def test_where_a_turn_ends() -> None:
    ids = nano_tokenizer().convert_tokens_to_ids
    assert end_of_turn(nano_tokenizer()) == ids("<|im_end|>")
    assert end_of_turn(nano_tokenizer(INST)) == ids("</s>")
    assert end_of_turn(nano_tokenizer(ENDLESS)) is None


def test_what_a_tokenizer_lacks_is_made_up_and_saved(tmp_path: Any) -> None:
    tokenizer = nano_tokenizer(None, pad_token=None)
    Encode(tokenizer, CausalLMSettings())
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token == "</s>"
    text = again.apply_chat_template([MESSAGES[1]], tokenize=False, add_generation_prompt=True)
    assert text == "User: Hi\nAssistant:"
    with pytest.raises(ModelError, match="the tokenizer has no end token"):
        Encode(nano_tokenizer(eos_token=None), CausalLMSettings())
