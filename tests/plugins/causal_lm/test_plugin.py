"""The hooks, asked as the core asks them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toolkit_causal_lm
import torch
from tokenizers import Tokenizer
from toolkit_causal_lm.generate import generate
from toolkit_causal_lm.inspect_ import Inspect, Show
from toolkit_causal_lm.prepare import Prepare
from toolkit_causal_lm.settings import CausalLMSettings
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
)

from tests.plugins.causal_lm.conftest import CHATML, POSITIONS, nano_llama, nano_tokenizer
from tests.plugins.causal_lm.test_loss import ROWS, batch_of
from toolkit import DataError, ModelError, Recipe, RecipeError, adapt

Saved = Callable[..., str]
PAIR = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}], "row_id": 0}


def recipe(settings: CausalLMSettings | None = None, **values: Any) -> Recipe:
    made = Recipe(name="test", plugins=["causal-lm"], **values)
    return made.with_settings({CausalLMSettings: settings or CausalLMSettings()})


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, toolkit_causal_lm; print({'torch', 'transformers', 'jinja2'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


def test_faults_that_are_known_before_the_model_is() -> None:
    assert toolkit_causal_lm.toolkit_settings() is CausalLMSettings
    assert toolkit_causal_lm.toolkit_check(recipe()) == []
    wrong = CausalLMSettings(max_length=1, max_new_tokens=0, num_beams=0, temperature=-0.5)
    assert [fault.message for fault in toolkit_causal_lm.toolkit_check(recipe(wrong))] == [
        "causal-lm.max_length: must be at least 2, found 1",
        "causal-lm.max_new_tokens: must be at least 1, found 0",
        "causal-lm.num_beams: must be at least 1, found 0",
        "causal-lm.temperature: must be at least 0, found -0.5",
    ]
    (both,) = toolkit_causal_lm.toolkit_check(recipe(CausalLMSettings(num_beams=2, temperature=0.5)))
    assert "causal-lm.temperature: 0.5 with num_beams 2" in str(both)


def test_from_folder_to_scores_and_texts(saved: Saved) -> None:
    tokenizer = nano_tokenizer()
    asked = recipe(CausalLMSettings(max_new_tokens=5), model=saved(nano_llama(tokenizer), tokenizer))
    model, processor = toolkit_causal_lm.toolkit_model(asked)()
    prepare = pickle.loads(pickle.dumps(toolkit_causal_lm.toolkit_prepare(asked, processor)))
    batch = toolkit_causal_lm.toolkit_collator(asked, processor)([prepare(row) for row in ROWS])
    loss = toolkit_causal_lm.toolkit_loss()(model.eval(), batch)
    scored = toolkit_causal_lm.toolkit_evaluate_batch(asked, processor)(model, batch)
    assert float(scored.loss.total) == pytest.approx(float(loss.total), rel=1e-6)
    values: dict[str, float] = {}
    for metric in toolkit_causal_lm.toolkit_metrics(asked):
        metric.update(scored)
        values |= metric.compute()
    assert set(values) == {"perplexity", "token_accuracy"}
    chat = toolkit_causal_lm.toolkit_predict(asked, model, processor, {"messages": "messages"})
    assert chat(["Hi"]) == scored.predictions[:1]
    goes_on = toolkit_causal_lm.toolkit_predict(asked, model, processor, {"completion": "completion"})
    assert goes_on(["2+2="]) == scored.predictions[1:2]
    assert chat(["2+2="]) != goes_on(["2+2="])
    assert len(chat([str(number) for number in range(11)])) == 11


def test_exact_match_is_there_when_asked_for() -> None:
    asked = recipe(CausalLMSettings(exact_match=True))
    names = [name for metric in toolkit_causal_lm.toolkit_metrics(asked) for name in metric.compute()]
    assert names == ["perplexity", "token_accuracy", "exact_match"]


def test_generation_is_transformers_own(tokenizer: Any, llama: Any) -> None:
    tokenizer.model_max_length = POSITIONS
    prompts = [tokenizer(text).input_ids for text in ("abc", "a longer one", "z")]
    ours = generate(llama, tokenizer, prompts, CausalLMSettings(max_new_tokens=7))
    for prompt, text in zip(prompts, ours, strict=True):
        tokens = llama.generate(input_ids=torch.tensor([prompt]), max_new_tokens=7, do_sample=False)
        assert tokenizer.decode(tokens[0, len(prompt) :], skip_special_tokens=True).strip() == text
    beams = generate(llama, tokenizer, prompts[:1], CausalLMSettings(max_new_tokens=7, num_beams=3))
    theirs = llama.generate(
        input_ids=torch.tensor(prompts[:1]), max_new_tokens=7, num_beams=3, do_sample=False
    )
    assert beams == [tokenizer.decode(theirs[0, 3:], skip_special_tokens=True).strip()]
    drawn = CausalLMSettings(max_new_tokens=20, temperature=1.5)
    assert generate(llama, tokenizer, prompts, drawn) != generate(llama, tokenizer, prompts, drawn)


def asked_of(llama: Any, tokenizer: Any, **settings: Any) -> list[str]:
    torch.manual_seed(0)
    return generate(
        llama, tokenizer, [tokenizer("abc").input_ids], CausalLMSettings(max_new_tokens=7, **settings)
    )


@pytest.mark.parametrize(
    "own",
    [
        {"penalty_alpha": 0.6, "top_k": 4}, {"dola_layers": "low"}, {"force_words_ids": [[1]]},
        {"stop_strings": ["a"]}, {"bad_words_ids": [[10**7]]}, {"prompt_lookup_num_tokens": 3},
        {"is_assistant": True}, {"assistant_early_exit": 1}, {"num_return_sequences": 5}, {"guidance_scale": 3.0},
        {"cache_implementation": "evil"}, {"min_new_tokens": 10**9}, {"do_sample": True, "temperature": 9.0},
        {"num_beams": 3, "num_beam_groups": 3}, {"max_time": 0.0},
    ],
    ids=lambda own: next(iter(own)),
)  # fmt: skip
def test_how_a_model_would_generate_elsewhere_does_not_count(
    own: dict[str, Any], tokenizer: Any, llama: Any
) -> None:
    tokenizer.model_max_length = POSITIONS
    expected = asked_of(llama, tokenizer)
    for name, value in own.items():
        setattr(llama.generation_config, name, value)
    before = llama.generation_config
    assert asked_of(llama, tokenizer) == asked_of(adapt(llama, {"r": 2}), tokenizer) == expected
    assert llama.generation_config is before


@pytest.mark.parametrize(
    ("own", "settings"),
    [
        ({"repetition_penalty": 3.0}, {}),
        ({"suppress_tokens": [*range(60, 260)]}, {}),
        ({"top_k": 1}, {"temperature": 5.0}),
        ({"length_penalty": -9.0}, {"num_beams": 3}),
    ],
)
def test_what_a_model_says_of_its_tokens_counts(
    own: dict[str, Any], settings: Any, tokenizer: Any, llama: Any
) -> None:
    tokenizer.model_max_length = POSITIONS
    for name, value in own.items():
        setattr(llama.generation_config, name, value)
    (ours,) = asked_of(llama, tokenizer, **settings)
    torch.manual_seed(0)
    prompt = torch.tensor([tokenizer("abc").input_ids])
    theirs = llama.generate(
        input_ids=prompt, max_new_tokens=7, do_sample="temperature" in settings, **settings
    )
    assert tokenizer.decode(theirs[0, 3:], skip_special_tokens=True).strip() == ours


def test_generation_fits_the_model(tokenizer: Any, llama: Any) -> None:
    tokenizer.model_max_length = POSITIONS
    prompt = [20] * (POSITIONS + 40)
    (text,) = generate(llama, tokenizer, [prompt], CausalLMSettings(max_new_tokens=100_000))
    assert len(text) <= POSITIONS


def test_prompts_that_cannot_be_used(tokenizer: Any, llama: Any) -> None:
    tokenizer.model_max_length = POSITIONS
    predict = toolkit_causal_lm.toolkit_predict(recipe(), llama, tokenizer, {})
    with pytest.raises(DataError, match="the prompt is empty"):
        predict(["fine", " "])
    with pytest.raises(DataError, match=f"the prompt makes 200 tokens, the model takes {POSITIONS}"):
        predict(["x" * 200])


# ---- models and tokenizers -------------------------------------------------------------------------------


def test_generation_ends_with_a_text_and_with_a_turn(saved: Saved, tmp_path: Path) -> None:
    tokenizer = nano_tokenizer(pad_token=None)
    asked = recipe(model=saved(nano_llama(tokenizer), tokenizer))
    model, processor = toolkit_causal_lm.toolkit_model(asked)()
    ids = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (ids, ids[0])
    assert (processor.pad_token, processor.model_max_length) == ("</s>", POSITIONS)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert plain.generation_config.eos_token_id == ids
    assert AutoTokenizer.from_pretrained(tmp_path / "again").chat_template == tokenizer.chat_template


@pytest.mark.parametrize("config", [
    WhisperConfig(architectures=["WhisperForConditionalGeneration"]), CLIPConfig(architectures=["CLIPModel"]),
], ids=["whisper", "clip"])  # fmt: skip
def test_a_model_of_another_kind_is_refused(tmp_path: Path, config: Any) -> None:
    config.save_pretrained(tmp_path)
    kind = f"{config.architectures[0]} \\(model_type '{config.model_type}'\\)"
    with pytest.raises(
        ModelError, match=f"holds a {kind}, which is nothing for AutoModelForCausalLM"
    ) as caught:
        toolkit_causal_lm.toolkit_model(recipe(model=str(tmp_path)))()
    assert f"run a task for '{config.model_type}'" in str(caught.value.hint)


def test_a_tokenizer_that_does_not_fit_or_end(saved: Saved) -> None:
    tokenizer = nano_tokenizer()
    small = nano_llama(tokenizer, vocab_size=100)
    with pytest.raises(ModelError, match="it counts its tokens up to 260, the model to 99"):
        toolkit_causal_lm.toolkit_model(recipe(model=saved(small, tokenizer, "small")))()
    endless = nano_tokenizer(eos_token=None)
    with pytest.raises(ModelError, match="the tokenizer has no end token"):
        toolkit_causal_lm.toolkit_model(recipe(model=saved(nano_llama(endless), endless, "endless")))()


@pytest.mark.parametrize("where", ["a vocabulary", "what is put before a text"])
def test_a_tokenizer_whose_tokens_the_model_has_not(where: str, tokenizer: Any, llama: Any) -> None:
    """Though it has no more of them."""
    folder = json.loads(tokenizer.backend_tokenizer.to_str())
    if where == "a vocabulary":
        folder["model"]["vocab"]["a"] = 10**6
    else:
        special = {"<s>": {"id": "<s>", "ids": [10**6], "tokens": ["<s>"]}}
        first, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
        folder["post_processor"] = {"type": "TemplateProcessing", "single": [first, text], "pair": [text],
                                    "special_tokens": special}  # fmt: skip
    other = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(folder)), eos_token="</s>")
    assert len(other) <= len(tokenizer)
    with pytest.raises(ModelError, match="it counts its tokens up to 1000000, the model to 260"):
        toolkit_causal_lm.toolkit_given(recipe(), llama, other)


@pytest.mark.parametrize("template", [{"a": "x", "b": "y"}, {"default": 3}, 3, [1]])
def test_a_template_that_is_no_text(template: Any, tokenizer: Any, llama: Any) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="no chat template that is a text"):
        toolkit_causal_lm.toolkit_given(recipe(), llama, tokenizer)
    tokenizer.chat_template = {"default": CHATML, "other": "x"}
    toolkit_causal_lm.toolkit_given(recipe(), llama, tokenizer)


@pytest.mark.parametrize("positions", [0, -5])
def test_a_model_that_takes_no_text(positions: int, tokenizer: Any, llama: Any) -> None:
    llama.config.max_position_embeddings = positions
    with pytest.raises(ModelError, match=f"the model takes {positions} tokens, by max_position"):
        toolkit_causal_lm.toolkit_given(recipe(), llama, tokenizer)


def test_no_more_tokens_than_the_model_takes(saved: Saved) -> None:
    tokenizer = nano_tokenizer()
    asked = recipe(CausalLMSettings(max_length=200), model=saved(nano_llama(tokenizer), tokenizer))
    with pytest.raises(RecipeError, match=f"max_length: 200, but the model takes {POSITIONS} tokens"):
        toolkit_causal_lm.toolkit_model(asked)()


# ---- rows looked at --------------------------------------------------------------------------------------


def test_facts_of_a_row(tokenizer: Any) -> None:
    facts = Inspect(tokenizer, CausalLMSettings())(PAIR)
    assert facts == {"shape": "chat", "tokens": 25, "tokens that count": 3, "usable": "yes"}
    tokenizer.model_max_length = POSITIONS
    noted = Inspect(tokenizer, CausalLMSettings(loss_on="all", max_length=8))(PAIR)["noted"]
    assert noted == "longer than 8 tokens, truncated"


@pytest.mark.parametrize(
    ("row", "settings", "usable"),
    [
        ({"text": " "}, {}, "no: not a usable text, completion or chat"),
        (PAIR, {"max_length": 8}, "no: too long, or nothing to learn in 8 tokens"),
        (
            {"text": "a long one"},
            {"max_length": 8, "too_long": "drop"},
            "no: too long, or nothing to learn in 8 tokens",
        ),
    ],
)
def test_what_prepare_would_refuse_is_told(tokenizer: Any, row: Any, settings: Any, usable: str) -> None:
    made = CausalLMSettings(**settings)
    with pytest.raises(DataError) as looked:
        Inspect(tokenizer, made)(row)
    assert looked.value.facts["usable"] == usable
    with pytest.raises(DataError) as prepared:
        Prepare(tokenizer, made)(row)
    assert prepared.value.message == looked.value.message


def shown(tokenizer: Any, row: Any, **settings: Any) -> str:
    made = CausalLMSettings(**settings)
    return Show(tokenizer)(Prepare(tokenizer, made)(row))


def test_the_tokens_that_count_are_in_brackets(tokenizer: Any) -> None:
    assert shown(tokenizer, PAIR) == (
        "25 tokens, those in brackets count (3): <|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
        "[Y][o][<|im_end|>]\\n"
    )
    assert shown(tokenizer, {"text": "abcdef"}, max_length=4, too_long="split") == (
        "8 tokens, those in brackets count (6): a[b][c][d] | d[e][f][</s>]"
    )
    assert " … 81 tokens … " in shown(tokenizer, {"text": "x" * 200})


def test_what_is_peculiar_about_ends_is_told() -> None:
    assert "padding is </s> too" in shown(nano_tokenizer(pad_token=None), {"text": "ab"})
    assert "the tokenizer has no chat template: one is made up" in shown(nano_tokenizer(None), PAIR)
    assert "chat template" not in shown(nano_tokenizer(None), {"text": "ab"})
    endless = "{% for message in messages %}{{ message['content'] + '\n' }}{% endfor %}"
    assert "the chat template ends no turn: </s> is put after" in shown(nano_tokenizer(endless), PAIR)
    facts = Inspect(nano_tokenizer(None), CausalLMSettings())(PAIR)
    assert str(facts["noted"]).startswith(
        "the tokenizer has no chat template, so turns are written as 'User: …'"
    )


def test_the_batch_is_padded_on_the_right(tokenizer: Any) -> None:
    batch = batch_of(tokenizer, ROWS[1:])
    assert tokenizer.batch_decode(batch["input_ids"]) == ["2+2=4</s>" + "<pad>" * 12, "Once upon a time.</s>"]
    assert batch["references"] == ["4", "a time."]
    assert json.dumps(batch["asked"]) == json.dumps(
        [tokenizer(text).input_ids for text in ("2+2=", "Once upon")]
    )
