"""Whole runs of nano models through the core: what only shows there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toolkit_causal_lm.loss import summed_cross_entropy
from toolkit_tasks.causal_lm import recipe as task
from transformers import BloomConfig, BloomForCausalLM

from tests.plugins.causal_lm.conftest import nano_llama, nano_tokenizer
from toolkit import DataError, ModelError, Recipe, RecipeError, Row, Run, adapt, load_run, run
from toolkit.cli import main

Saved = Callable[..., str]
QUICK: dict[str, Any] = {
    "eval": {"before": False},
    "data": {"validation_fraction": 0.0, "max_bad_fraction": 0.5},
    "causal-lm": {"max_new_tokens": 4},
    "train": {
        "max_steps": 3,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 4,
        "eval_strategy": "no",
        "save_strategy": "no",
        "use_cpu": True,
    },
}
CHATS: list[Row] = [
    {
        "messages": [
            {"role": "user", "content": f"Say {number}"},
            {"role": "assistant", "content": "ha" * number},
        ]
    }
    for number in range(1, 9)
]
COMPLETIONS: list[Row] = [{"instruction": f"{one}+1=", "output": str(one + 1)} for one in range(8)]
TEXTS: list[Row] = [{"content": "so " * number + "it ends"} for number in range(8)]


@pytest.fixture
def folder(saved: Saved) -> str:
    """A model whose tokenizer pads with the token that ends a text."""
    tokenizer = nano_tokenizer(pad_token=None)
    return saved(nano_llama(tokenizer), tokenizer)


def quick(folder: str, **changes: Any) -> Recipe:
    return task.override(model=folder, **QUICK).override(**changes)


def losses(made: Run) -> list[tuple[float, float]]:
    """Loss and norm of the gradient at each step."""
    lines = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]


@pytest.mark.parametrize(
    ("rows", "reference"),
    [(CHATS, "ha"), (COMPLETIONS, "1"), (TEXTS, "nds")],
    ids=["chats", "completions", "texts"],
)
def test_rows_of_each_shape(folder: str, rows: list[Row], reference: str, in_tmp: Path) -> None:
    made = run(quick(folder), "first", data={"train": rows, "test": rows[:4]})
    assert set(made.summary["after"]) == {"loss", "perplexity", "token_accuracy"}
    again = load_run("first")
    assert again.predict(["Say 3", "1+1="]) == made.predict(["Say 3", "1+1="])
    samples = [json.loads(line) for line in Path("first/samples.jsonl").read_text().splitlines()]
    assert [sample["row_id"] for sample in samples] == [0, 1, 2]
    assert samples[0]["reference"] == reference


@pytest.mark.parametrize("grouped", ["random", "group_by_length"])
def test_a_packed_run_is_the_padded_one(folder: str, in_tmp: Path, grouped: str) -> None:
    changes = {"adapter": {"lora_dropout": 0.0}, "train": {"train_sampling_strategy": grouped}}
    data = {"train": CHATS, "test": CHATS[:3]}
    padded = run(quick(folder, **changes, **{"causal-lm": {"packing": False}}), "padded", data=data)
    packed = run(quick(folder, **changes), "packed", data=data)
    for one, two in zip(losses(padded), losses(packed), strict=True):
        assert one == pytest.approx(two, rel=1e-4)
    weights = [load_file(f"{name}/model/adapter_model.safetensors") for name in ("padded", "packed")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=2e-5)
    assert packed.summary["after"] == pytest.approx(padded.summary["after"], rel=1e-4)


PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
for text in sys.argv[2:]:
    turns = [{"role": "user", "content": text}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    new = model.generate(input_ids=ids, max_new_tokens=60)[0, ids.shape[1]:]
    print(len(new), tokenizer.decode(new, skip_special_tokens=True))
assert "toolkit" not in sys.modules
"""


@pytest.mark.parametrize("template", ["chatml", None])
def test_the_model_learns_to_stop(saved: Saved, in_tmp: Path, template: str | None) -> None:
    """Also where padding is the token that ends a text, and by plain transformers, from what is saved."""
    tokenizer = nano_tokenizer(**({} if template else {"template": None}), pad_token=None)
    model = nano_llama(tokenizer, initializer_range=0.05)
    train = {
        "max_steps": 60,
        "per_device_train_batch_size": 4,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
    }
    recipe = quick(
        saved(model, tokenizer), adapter=None, train=train, **{"causal-lm": {"max_new_tokens": 60}}
    )
    made = run(recipe, "first", data={"train": CHATS[:4], "test": CHATS[:4]})
    asked = [f"Say {number}" for number in range(1, 5)]
    assert made.predict(asked) == ["ha", "haha", "hahaha", "hahahaha"]
    if template:
        command = [sys.executable, "-c", PLAIN, "first/model", *asked]
        plain = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        assert plain == [f"{2 * n + 1} {'ha' * n}" for n in range(1, 5)]


@pytest.mark.parametrize("reentrant", [None, True])
def test_activation_checkpointing_changes_nothing(folder: str, in_tmp: Path, reentrant: bool | None) -> None:
    plain = quick(folder, adapter={"lora_dropout": 0.0})
    kwargs = {} if reentrant is None else {"activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    saving = plain.override(train={"activation_checkpointing": True, **kwargs})
    one, two = run(plain, "plain", data=CHATS), run(saving, "saving", data=CHATS)
    for first, second in zip(losses(one), losses(two), strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    tensors = load_file("saving/model/adapter_model.safetensors")
    assert all(tensor.abs().max() > 0 for name, tensor in tensors.items() if "lora_B" in name)
    assert two.model.config.use_cache is not False


def test_every_weight_can_be_trained(folder: str, in_tmp: Path) -> None:
    made = run(quick(folder, adapter=None), "first", data={"train": CHATS, "test": CHATS[:4]})
    before, after = load_file(f"{folder}/model.safetensors"), load_file("first/model/model.safetensors")
    assert before.keys() == after.keys()
    assert not [name for name in before if torch.equal(before[name], after[name])]
    assert not Path("first/model/adapter_config.json").exists()
    measured = load_run("first").evaluate(CHATS[:4])["metrics"]
    assert measured == pytest.approx(made.summary["after"], rel=1e-5)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantized_models_are_trained_saved_and_measured_again(
    folder: str, in_tmp: Path, quantization: str, packing: bool
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = {"causal-lm": {"packing": packing}}
    recipe = quick(folder, model={"quantization": quantization}, eval={"before": True}, **settings)
    made = run(recipe, "first", data={"train": CHATS, "test": CHATS[:4]})
    assert {type(module).__name__ for module in made.model.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert all(norm > 0 for _, norm in losses(made))
    assert made.summary["after"]["loss"] != made.summary["before"]["loss"]
    measured = load_run("first").evaluate(CHATS[:4])["metrics"]
    assert measured == pytest.approx(made.summary["after"], rel=1e-4)


def test_bad_rows_are_put_aside_with_their_reasons(folder: str, in_tmp: Path) -> None:
    user, robot = {"role": "user", "content": "Hi"}, {"role": "robot", "content": "Beep"}
    bad = [{"messages": [user]}, {"messages": [user, robot]}, {"messages": []}]
    made = run(quick(folder, train={"num_train_epochs": 1, "max_steps": -1}), "first", data=[*CHATS, *bad])
    assert made.summary["rows"]["quarantined"] == 3
    lines = [json.loads(line) for line in Path("first/quarantine.jsonl").read_text().splitlines()]
    reasons = {line["row_id"]: line["reason"] for line in lines}
    assert reasons[8] == "messages: no turn is the assistant's (roles: user)"
    assert reasons[9].startswith("message 2: 'robot' is no role")
    assert reasons[10] == "the row is empty: it has no messages"


def test_data_without_text(folder: str, in_tmp: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(quick(folder), "first", data=[{"prompt": "a", "said": "b"}])
    expected = "no column for 'messages', 'completion' or 'text' in the data (columns: prompt, said)"
    assert caught.value.message == expected
    assert caught.value.hint == "say which it is: --set data.columns.text=said"


def test_long_rows_are_counted_and_told(
    folder: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "short"}] * 6 + [{"text": "so long " * 9}] * 2
    settings = {"max_length": 20, "too_long": "truncate"}
    run(quick(folder, **{"causal-lm": settings}), "first", data=rows)
    assert "2 of 8 rows looked at: longer than 20 tokens, truncated" in capsys.readouterr().err
    run(quick(folder, **{"causal-lm": {**settings, "too_long": "split"}}), "second", data=rows)
    assert "2 of 8 rows looked at: longer than 20 tokens, split into several" in capsys.readouterr().err
    dropped = quick(folder, train={"max_steps": -1, "num_train_epochs": 1})
    made = run(dropped.override(**{"causal-lm": {**settings, "too_long": "drop"}}), "third", data=rows)
    assert made.summary["rows"] == {"train": 6, "validation": 0, "test": 0, "quarantined": 2}
    assert "the row makes 73 tokens, more than 20" in Path("third/quarantine.jsonl").read_text()


def test_answers_are_compared_when_asked_for(folder: str, in_tmp: Path) -> None:
    recipe = quick(folder, **{"causal-lm": {"exact_match": True}})
    made = run(recipe, "first", data={"train": COMPLETIONS, "test": COMPLETIONS})
    said = made.predict([row["instruction"] for row in COMPLETIONS])
    right = [one == row["output"] for one, row in zip(said, COMPLETIONS, strict=True)]
    assert made.summary["after"]["exact_match"] == sum(right) / len(right)


def test_every_row_is_answered_where_predictions_are_asked_for(folder: str, in_tmp: Path) -> None:
    recipe = quick(folder, train={"do_predict": True}, eval={"before": True})
    made = run(recipe, "first", data={"train": CHATS, "test": CHATS})
    written = [json.loads(line) for line in Path("first/predictions.jsonl").read_text().splitlines()]
    assert [one["reference"] for one in written] == [row["messages"][1]["content"] for row in CHATS]
    assert [one["prediction"] for one in written] == made.predict([f"Say {n}" for n in range(1, 9)])
    assert len(Path("first/samples.jsonl").read_text().splitlines()) == 2 * 3


def test_two_modalities_in_one_recipe(folder: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    command = [
        "run",
        "--task",
        "causal-lm",
        "--model",
        folder,
        "--data",
        "rows.jsonl",
        "--output-dir",
        "first",
    ]
    assert main([*command, "--set", "plugins=[whisper, causal-lm]"]) == 2
    said = capsys.readouterr().err
    assert "error: plugins 'whisper' and 'causal-lm' both answer toolkit_model" in said
    assert "hint: a run trains one kind of model: name just one of them in the recipe's `plugins`" in said
    assert not Path("first").exists()


@pytest.mark.parametrize(
    "wrong", [{"loss_on": "answers"}, {"max_length": "long"}, {"packing": "yes"}, {"maxlength": 5}]
)
def test_settings_of_the_wrong_type(folder: str, in_tmp: Path, wrong: Any) -> None:
    with pytest.raises(RecipeError, match=r"causal-lm"):
        run(quick(folder, **{"causal-lm": wrong}), "first", data=TEXTS)
    assert not Path("first").exists()


def test_check_shows_the_first_row(folder: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHATS))
    assert main(["check", "--task", "causal-lm", "--model", folder, "--data", "rows.jsonl", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "<|im_start|>assistant\\n[h][a][<|im_end|>]\\n; padding is </s> too" in report["first_row"]
    assert report["facts"]["shape"] == {"chat": 8}
    assert report["facts"]["tokens that count"]["max"] == 17


def test_objects_given_in_code_are_set_up_as_loaded_ones(in_tmp: Path) -> None:
    """They learn to stop at the end of a turn, and what cannot be packed is refused."""
    tokenizer = nano_tokenizer()
    model = nano_llama(tokenizer)
    model.generation_config.eos_token_id = None
    mine = quick("unused")
    run(mine, "given", data=CHATS, model=model, processor=tokenizer)
    saved = json.loads(Path("given/model/generation_config.json").read_text())
    ends = saved["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in (ends if isinstance(ends, list) else [ends])
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "n_layer": 1, "n_head": 2}
    bloom = BloomForCausalLM(BloomConfig(**sizes))
    packing = mine.override(**{"causal-lm": {"packing": True}})
    with pytest.raises(ModelError, match=r"causal-lm\.packing: BloomForCausalLM"):
        run(packing, "packed", data=CHATS, model=bloom, processor=tokenizer)
    bare = mine.override(adapter=None, train={"max_steps": 1})
    assert run(bare, "padded", data=CHATS, model=bloom, processor=tokenizer).summary["train"]["steps"] == 1
    with pytest.raises(ModelError, match="without its tokenizer"):
        run(mine, "bare", data=CHATS, model=model)
    with pytest.raises(ModelError, match="a LlamaModel, no causal language model"):
        run(mine, "part", data=CHATS, model=model.model, processor=tokenizer)


@pytest.mark.parametrize("kind", ["prompt", "p_tuning", "prefix"])
def test_virtual_tokens_before_the_text(
    kind: str, folder: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = quick(folder, adapter={"kind": kind, "num_virtual_tokens": 5}, eval={"before": True})
    made = run(recipe, "first", data={"train": CHATS, "test": CHATS})
    assert made.summary["after"]["loss"] < made.summary["before"]["loss"]
    again = load_run("first")
    assert again.evaluate(data={"test": CHATS})["metrics"] == made.summary["after"]
    assert again.predict(["Say 3"]) == made.predict(["Say 3"])
    assert main(["export", "first", "--to", "merged", "--merge"]) == 2
    assert "the adapter is virtual tokens, which no weights can hold" in capsys.readouterr().err
    assert not Path("merged").exists()
    with pytest.raises(
        RecipeError, match=r"causal-lm\.packing: an adapter's virtual tokens stand before a sequence"
    ):
        run(recipe.override(**{"causal-lm": {"packing": True}}), "packed", data={"train": CHATS})


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_the_loss_behind_virtual_tokens_is_pefts(kind: str, llama: Any) -> None:
    model = adapt(llama.eval(), {"kind": kind, "num_virtual_tokens": 5})
    ids = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]])
    labels = torch.tensor([[-100, -100, 5, 6, 7], [-100, 9, 10, -100, -100]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels, "num_targets": 5}
    expected = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels).loss
    torch.testing.assert_close(summed_cross_entropy(model, batch).total / 5, expected)
