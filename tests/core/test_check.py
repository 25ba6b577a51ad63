"""`check` on the tiny plugin: what it finds, what it forecasts, and that nothing stays behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Install
from tests.core import tiny
from tests.core.tiny import rows
from toolkit import DataError, PluginError, Recipe, run
from toolkit.check import Report, check, described, memory

SIZES = {"train": 20, "validation": 5, "test": 6}
WEIGHTS = 2 * 16 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16
"""Embedding and head; two layers of attention, MLP and norms; the last norm."""


def write(splits: dict[str, list[dict[str, Any]]]) -> None:
    Path("data").mkdir(exist_ok=True)
    for split, content in splits.items():
        lines = [json.dumps({"tokens": row["ids"], "note": "x"}) for row in content]
        Path(f"data/{split}.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture
def recipe(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> Recipe:
    # The tiny plugin's fixture has made the folder that packages are installed into.
    install("toolkit-look", plugins={"look": "toolkit_look"}, modules={"toolkit_look": tiny.LOOK})
    write({split: rows(count, seed=count) for split, count in SIZES.items()})
    return tiny_recipe.override(data="data", plugins=["tiny", "look"])


def faults(report: Report) -> list[str]:
    return [fault.message for fault in report.faults]


def files() -> set[Path]:
    return set(Path().rglob("*"))


def test_a_recipe_with_nothing_wrong(recipe: Recipe) -> None:
    before = files()
    document = check(recipe.override(train={"warmup_steps": 0.2})).as_dict()
    assert document["ok"] is True
    assert document["faults"] == []
    assert document["rows"] == {
        "splits": SIZES, "total": 31, "looked_at": 31, "unusable": 0, "unreadable": 0, "reasons": [],
    }  # fmt: skip
    assert document["columns"] == {"ids": "tokens"}
    assert document["first_row"] == " ".join(f"<{token}>" for token in rows(20, seed=20)[0]["ids"])
    lengths = [len(row["ids"]) for split, count in SIZES.items() for row in rows(count, seed=count)]
    assert document["facts"]["tokens"]["total"] == sum(lengths)
    assert sum(document["facts"]["begins"].values()) == 31
    assert document["adapter"] is None
    assert document["parameters"] == {"trainable": WEIGHTS, "total": WEIGHTS}
    assert document["steps"] == {"rows_per_step": 4, "per_epoch": 5, "total": 15, "warmup": 3}
    assert document["memory"]["gradients"] == 4 * WEIGHTS
    assert document["memory"]["optimizer"] == 8 * WEIGHTS
    assert 4 * WEIGHTS <= document["memory"]["weights"] < 4 * WEIGHTS + 100
    assert document["dry_run"] is None
    assert files() == before


def test_steps_with_accumulation_and_a_limit(recipe: Recipe) -> None:
    accumulated = recipe.override(train={"gradient_accumulation_steps": 3, "num_train_epochs": 2.5})
    # 5 batches an epoch make 2 steps; two and a half epochs 5.
    assert check(accumulated).steps == {"rows_per_step": 12, "per_epoch": 2, "total": 5, "warmup": 0}
    assert (check(recipe.override(train={"max_steps": 7})).steps or {})["total"] == 7


def test_what_each_target_matches(recipe: Recipe) -> None:
    adapter = {"r": 4, "target_modules": ["q_proj", "layers.1.mlp.*"]}
    report = check(recipe.override(adapter=adapter))
    assert faults(report) == []
    assert report.adapter == [
        {"entry": "q_proj", "matched": 2,
         "examples": ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]},
        {"entry": "layers.1.mlp.*", "matched": 3,
         "examples": [f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")]},
    ]  # fmt: skip
    trained = 2 * 4 * (16 + 16) + 3 * 4 * (16 + 32)
    assert report.parameters == {"trainable": trained, "total": WEIGHTS + trained}
    assert (report.memory or {})["optimizer"] == 8 * trained


def test_targets_left_to_peft(recipe: Recipe) -> None:
    [row] = check(recipe.override(adapter={"r": 4})).adapter or []
    assert (row["entry"], row["matched"]) == ("(the default)", 4)


def test_targets_that_match_nothing_stand_in_the_table(recipe: Recipe) -> None:
    report = check(recipe.override(adapter={"target_modules": ["q_prj", "v_proj", "k_prj"]}))
    assert [(one["entry"], one["matched"]) for one in report.adapter or ()] == [
        ("q_prj", 0),
        ("v_proj", 2),
        ("k_prj", 0),
    ]
    assert [message.split("'")[1] for message in faults(report)] == ["q_prj", "k_prj"]
    assert report.rows is not None
    assert report.parameters is None


def test_faults_of_all_parts_come_together(recipe: Recipe) -> None:
    wrong = recipe.override(
        train={"learning_rat": 1, "seed": "abc"},
        adapter={"r": 0},
        tiny={"drop": 1},
        data={"columns": {"ids": "gone"}},
    )
    report = check(wrong)
    assert faults(report) == [
        'train.seed: input should be a valid integer, found "abc"',
        "train.learning_rat: unknown key 'learning_rat'",
        "adapter.r: must be at least 1, found 0",
        "tiny.drop: unknown key 'drop'",
        "data.columns.ids: no column 'gone' in the data (columns: tokens, note)",
    ]
    assert report.as_dict()["ok"] is False


def test_data_and_model_are_looked_at_with_wrong_arguments_too(recipe: Recipe) -> None:
    report = check(recipe.override(train={"learning_rat": 1}, data="gone.csv", model="lost"))
    first, second, third = faults(report)
    assert first == "train.learning_rat: unknown key 'learning_rat'"
    assert second == "data.source: gone.csv does not exist"
    assert third.startswith("the model lost cannot be loaded: there is no such folder")


def test_metrics_that_are_not_there(recipe: Recipe) -> None:
    assert faults(check(recipe.override(train={"metric_for_best_model": "acuracy"}))) == [
        "train.metric_for_best_model: no metric is named 'acuracy'"
    ]


def test_faults_that_the_rows_and_the_device_show_come_together(recipe: Recipe) -> None:
    wrong = {
        "eval_strategy": "no",
        "fp16": True,
        "use_cpu": True,
        "metric_for_best_model": "acuracy",
        "train_sampling_strategy": "group_by_length",
    }
    report = check(recipe.override(train=wrong, eval={"early_stopping_patience": 2}))
    assert faults(report) == [
        "train.train_sampling_strategy: no plugin of the recipe tells how long rows are",
        "eval.early_stopping_patience: training is never evaluated",
        "train.fp16: is for GPUs, the run is on the CPU",
        "train.metric_for_best_model: no metric is named 'acuracy'",
    ]


ACCURACY = """
from toolkit import Metric, hookimpl

class Accuracy(Metric):
    higher_is_better = True
    def update(self, scored): ...
    def merge(self, other): ...
    def compute(self): return {"accuracy": 0.5}

@hookimpl
def toolkit_metrics(recipe):
    return [Accuracy()]
"""


def test_two_metrics_of_one_name_are_a_fault_before_anything_trains(
    recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    install("toolkit-again", plugins={"again": "toolkit_again"}, modules={"toolkit_again": ACCURACY})
    twice = recipe.override(plugins=[*recipe.plugins, "again"], eval={"before": False})
    message = "two metrics are named 'accuracy'; the second is of class Accuracy"
    assert faults(check(twice)) == [message]
    with pytest.raises(PluginError, match=message):
        run(twice, "first")
    assert json.loads(Path("first/summary.json").read_text())["train"]["steps"] == 0


def test_a_recipe_without_a_sample(tiny_recipe: Recipe) -> None:
    report = check(tiny_recipe.override(data="sample", train={"max_step": 1}))
    assert faults(report) == [
        "recipe 'tiny' ships no sample data",
        "train.max_step: unknown key 'max_step'",
    ]


def test_bad_rows_are_counted_and_told(recipe: Recipe) -> None:
    write({"train": [{"ids": []}, *rows(19, seed=1)]})
    report = check(recipe)
    assert faults(report) == ["1 of 31 rows cannot be used, more than a share of 0.01\n  row 0 has no ids"]
    assert (report.rows or {})["unusable"] == 1
    assert (report.facts or {})["tokens"]["min"] == 0
    assert (report.first_row or "").startswith("<")
    assert faults(check(recipe.override(data={"max_bad_fraction": 0.1}))) == []


def test_without_hooks_rows_are_described(recipe: Recipe) -> None:
    write({"train": [{"ids": []}] * 20})
    report = check(recipe.override(plugins=["tiny"]))
    assert report.first_row is None
    write({"train": [{"ids": [3, 4]}] * 20})
    assert check(recipe.override(plugins=["tiny"])).first_row == "ids: [3, 4], row_id: 0"
    shown = described({"image": torch.zeros(3, 2), "text": "a" * 90, "row_id": 7})
    assert shown == f'image: Tensor of shape (3, 2), text: "{"a" * 56}..., row_id: 7'


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [("adamw_torch", 8), ("adamw_torch_fused", 8), ("paged_adamw_8bit", 2), ("sgd", 0), ("lion_32bit", None)],
)
def test_the_state_of_optimizers(optimizer: str, bytes_each: int | None) -> None:
    model = torch.nn.Linear(3, 5)
    model.bias.requires_grad = False
    state = None if bytes_each is None else 15 * bytes_each
    found = memory(model, optimizer)
    assert found["optimizer"] == state
    assert (found["weights"], found["gradients"]) == (80, 60)
    assert found["total"] == (None if state is None else 140 + state)


def test_adam_really_keeps_that_much() -> None:
    model = torch.nn.Linear(30, 50)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    kept = sum(tensor.nbytes for state in optimizer.state.values() for tensor in state.values())
    assert memory(model, "adamw_torch")["optimizer"] == pytest.approx(kept, abs=16)


def test_a_dry_run(recipe: Recipe) -> None:
    before = files()
    eager = recipe.override(train={"eval_strategy": "epoch", "save_strategy": "steps", "report_to": "none"})
    report = check(eager, with_dry_run=True)
    assert faults(report) == []
    outcome = report.dry_run or {}
    assert set(outcome["metrics"]) == {"loss", "accuracy"}
    assert outcome["metrics"] == pytest.approx(outcome["reloaded"], rel=1e-6)
    assert (outcome["device"], outcome["rows"]) == ("cpu", 6)
    assert outcome["seconds_per_step"] > 0
    assert outcome["peak_bytes"] > 1e8  # torch alone takes more
    training = 15 * outcome["seconds_per_step"] / 3600
    evaluated = 2 * 6 + 3 * 5  # before and after on test; three epochs on validation
    assert outcome["hours"]["training"] == pytest.approx(training)
    assert outcome["hours"]["evaluation"] == pytest.approx(evaluated * outcome["seconds_per_row"] / 3600)
    assert files() == before


def test_a_dry_run_of_a_run_that_may_stop_early(recipe: Recipe) -> None:
    early = recipe.override(train={"eval_strategy": "epoch"}, eval={"early_stopping_patience": 2})
    report = check(early, with_dry_run=True)
    assert faults(report) == []
    assert report.dry_run is not None


def test_a_dry_run_of_an_adapter(recipe: Recipe) -> None:
    run(recipe.override(train={"max_steps": 1}), "first")
    adapted = recipe.override(model="first/model", adapter={"r": 4, "target_modules": ["q_proj"]})
    before = files()
    report = check(adapted, with_dry_run=True)
    assert faults(report) == []
    assert (report.dry_run or {})["metrics"] == pytest.approx((report.dry_run or {})["reloaded"], rel=1e-6)
    assert files() == before


def test_a_dry_run_notices_what_is_not_saved(recipe: Recipe, install: Install) -> None:
    """A plugin that loads the untrained model whatever the recipe names."""
    source = tiny.PLUGIN.replace('if recipe.model.name != "tiny":', "if False:")
    assert source != tiny.PLUGIN
    install("toolkit-amnesia", plugins={"amnesia": "toolkit_amnesia"}, modules={"toolkit_amnesia": source})
    report = check(recipe.override(plugins=["amnesia", "look"], tiny=None), with_dry_run=True)
    [message] = faults(report)
    assert message.startswith("the saved model, loaded again, does not measure the same: loss ")


def test_a_dry_run_notices_a_loss_that_is_no_number(recipe: Recipe) -> None:
    report = check(recipe.override(train={"learning_rate": 1e38}), with_dry_run=True)
    assert "after one step the loss is nan" in faults(report)


def test_no_dry_run_with_faults(recipe: Recipe) -> None:
    report = check(recipe.override(adapter={"target_modules": ["q_prj"]}), with_dry_run=True)
    assert report.dry_run is None


def test_a_run_refuses_bad_rows_before_it_begins(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    write({"test": [{"ids": []}, *rows(5)]})
    with pytest.raises(DataError, match="1 of 31 rows cannot be used, more than a share of"):
        run(recipe, "first")
    assert not Path("first").exists()
    write({"test": [{"ids": []}] * 2})
    with pytest.raises(DataError, match="no row of the test split can be used; the last: row 1 has no ids"):
        run(recipe.override(data={"max_bad_fraction": 0.5}), "first")
    assert not Path("first").exists()
