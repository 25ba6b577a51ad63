"""Metrics of the library `evaluate`, with a module written here."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Install
from tests.core.tiny import PLUGIN, rows
from toolkit import EvaluateMetric, Loss, Recipe, RecipeError, Scored, run
from toolkit.metrics import Scores, named_metrics

MODULE = """
import datasets
import evaluate
import numpy as np

class Shouting(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        if predictions[0] == "fail":
            raise ArithmeticError("too quiet\\nby far")
        same = [one.upper() == two.upper() for one, two in zip(predictions, references)]
        return {"same": np.float32(np.mean(same)), "rows": len(same), "each": same, "note": "text"}
"""


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluate.config

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


@pytest.fixture
def shouting(tmp_path: Path) -> str:
    folder = tmp_path / "shouting"
    folder.mkdir()
    (folder / "shouting.py").write_text(MODULE)
    return str(folder)


def scored(predictions: list[Any], references: list[Any]) -> Scored:
    batch = {"row_id": torch.arange(len(references))}
    return Scored(Loss(torch.tensor(1.0), 1), batch, predictions, references)


def test_numbers_are_computed_over_all_batches_and_processes(shouting: str) -> None:
    one, two = (Scores(named_metrics([shouting], trusted=False)) for _ in range(2))
    assert set(one.compute()) == set(one.higher_is_better()) == {"loss"}
    one.update(scored(["a", "b"], ["A", "c"]))
    one.update(scored(["d"], ["d"]))
    two.update(scored(["e"], ["f"]))
    one.merge(pickle.loads(pickle.dumps(two)))
    assert one.compute() == {"loss": 1.0, "same": 0.5, "rows": 4.0}
    assert one.compute()["same"] == 0.5  # asked again
    assert isinstance(one.compute()["same"], float)


def test_a_loaded_module_can_be_given_in_code(shouting: str) -> None:
    import evaluate

    metric = EvaluateMetric(evaluate.load(shouting))
    metric.update(scored(["a"], ["a"]))
    assert metric.compute() == {"same": 1.0, "rows": 1.0}


def test_what_cannot_be_computed_is_an_error_of_the_recipe(shouting: str) -> None:
    (metric,) = named_metrics([shouting], trusted=False)
    metric.update(scored(["fail"], ["a"]))
    with pytest.raises(RecipeError) as caught:
        metric.compute()
    assert caught.value.message == "eval.metrics: 'shouting' cannot be computed: too quiet"
    assert "'predictions': Value('string')" in str(caught.value.hint)
    with pytest.raises(RecipeError, match="'shouting' needs predictions, of which the plugins give none"):
        metric.update(scored([], [0]))


def test_metrics_that_cannot_be_loaded_are_faults_of_the_recipe(tmp_path: Path, shouting: str) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "broken.py").write_text("raise RuntimeError('not today')")
    empty = tmp_path / "empty"
    empty.mkdir()
    names = ["chrf", str(broken), str(empty), shouting]
    with pytest.raises(RecipeError) as caught:
        Recipe(name="mine", eval={"metrics": names}).validate()
    messages = [fault.message for fault in caught.value.all]
    assert len(messages) == 3
    assert messages[0].startswith("eval.metrics: 'chrf' is no path, and a metric of the hub is a program")
    assert messages[1] == f"eval.metrics: '{broken}' cannot be loaded: not today"
    assert messages[2].startswith(f"eval.metrics: '{empty}' cannot be loaded: ")
    Recipe(name="mine", eval={"metrics": [shouting]}).validate()


def test_a_trusted_name_is_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tests do not reach."""
    with pytest.raises(RecipeError, match="'no/such' cannot be loaded") as caught:
        named_metrics(["no/such"], trusted=True)
    assert caught.value.hint


def test_a_path_is_made_absolute_so_that_the_recipe_repeats_the_run(
    shouting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(shouting).parent)
    recipe = Recipe(name="mine", model="m", data="d", eval={"metrics": ["shouting", "org/other"]})
    assert recipe.resolved().eval.metrics == [shouting, "org/other"]


TEXTS = """
@hookimpl
def toolkit_evaluate_batch():
    from torch.nn.functional import cross_entropy
    def evaluate(model, batch):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        total = cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="sum")
        loss = Loss(total, batch["num_targets"], outputs=logits)
        texts = [str(len(row.nonzero())) for row in batch["input_ids"]]
        return Scored(loss, batch, texts, ["3", *texts[1:]])
    return evaluate
"""


def test_a_run_reports_them(install: Install, in_tmp: Path, shouting: str) -> None:
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": PLUGIN + TEXTS})
    train = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "use_cpu": True}
    recipe = Recipe(name="tiny", plugins=["tiny"], model="tiny", train=train, eval={"metrics": [shouting]})
    made = run(recipe, "first", data={"train": rows(4), "validation": rows(5, seed=1)})
    assert made.summary["after"]["rows"] == 5.0
    assert made.summary["after"]["same"] == 1.0
    steps = [json.loads(line) for line in Path("first/metrics.jsonl").read_text().splitlines()]
    assert [one["same"] for one in steps if one["split"] == "validation"] == [1.0] * 3
    assert np.isfinite(made.summary["after"]["loss"])


def test_they_cannot_choose_the_best_checkpoint(tiny_recipe: Recipe, in_tmp: Path, shouting: str) -> None:
    recipe = tiny_recipe.override(eval={"metrics": [shouting]}, train={"metric_for_best_model": "same"})
    with pytest.raises(RecipeError, match="no metric is named 'same'"):
        run(recipe, "first", data={"train": rows(4), "validation": rows(4)})
    assert not Path("first").exists()


def test_a_run_without_predictions_is_refused(tiny_recipe: Recipe, in_tmp: Path, shouting: str) -> None:
    recipe = tiny_recipe.override(eval={"metrics": [shouting]})
    with pytest.raises(RecipeError, match="'shouting' needs predictions"):
        run(recipe, "first", data={"train": rows(4), "validation": rows(4)})
