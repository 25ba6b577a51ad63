from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Install
from tests.core.tiny import rows
from toolkit import CheckpointError, DataError, Recipe, RecipeError, load_run, run
from toolkit.opening import open_model
from toolkit.plugins import Plugins
from toolkit.runs import resume

SPLITS = {"train": rows(20), "validation": rows(5, seed=1), "test": rows(6, seed=2)}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(next((folder / "model").glob("*.safetensors")))


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_is_a_folder_that_says_everything(tiny_recipe: Recipe, in_tmp: Path) -> None:
    result = run(tiny_recipe, "first", data=SPLITS)
    summary = json.loads(Path("first/summary.json").read_text())
    assert summary == result.summary
    assert (summary["schema"], summary["status"], summary["task"]) == (1, "finished", "tiny")
    assert summary["rows"] == {"train": 20, "validation": 5, "test": 6, "quarantined": 0}
    assert summary["train"]["steps"] == 15
    assert summary["train"]["epochs"] == 3
    assert summary["train"]["resumed_from"] is None
    assert set(summary["before"]) == set(summary["after"]) == {"loss", "accuracy"}
    assert summary["after"]["loss"] < 0.7 * summary["before"]["loss"]
    for place in summary["artifacts"].values():
        assert Path("first", place).exists()
    assert set(summary["artifacts"]) == {"recipe", "environment", "metrics", "checkpoints", "model"}
    environment = json.loads(Path("first/environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert len(environment["data_fingerprint"]) >= 16
    assert Path("first/model/README.md").read_text().count(f"{summary['after']['loss']:.4f}") == 1


def test_test_rows_can_be_left_alone(tiny_recipe: Recipe, in_tmp: Path) -> None:
    """Before and after are then of validation; what is measured later is a setting, either way."""
    result = run(tiny_recipe.override(eval={"test": False}), "first", data=SPLITS)
    assert result.summary["rows"] == {"train": 20, "validation": 5, "test": 0, "quarantined": 0}
    assert {line["split"] for line in lines(Path("first"))} == {"train", "validation"}
    assert result.evaluate() == {
        "split": "validation",
        "rows": 5,
        "metrics": pytest.approx(result.summary["after"]),
    }
    tested = result.evaluate(settings={"eval": {"test": True}})
    assert (tested["split"], tested["rows"]) == ("test", 6)
    assert tested["metrics"] != result.evaluate()["metrics"]
    assert result.evaluate(SPLITS["test"]) == tested
    usual = run(tiny_recipe, "second", data=SPLITS)
    assert usual.evaluate(settings={"eval": {"test": False}})["split"] == "validation"
    assert usual.summary["after"] == pytest.approx(tested["metrics"])


def test_metrics_are_lines_by_step_and_split(tiny_recipe: Recipe, in_tmp: Path) -> None:
    run(tiny_recipe.override(train={"eval_strategy": "epoch"}), "first", data=SPLITS)
    found = [(line["step"], line["split"]) for line in lines(Path("first"))]
    assert found[0] == (0, "test")
    assert found[-1] == (15, "test")
    assert [step for step, split in found if split == "train"] == [2, 4, 6, 8, 10, 12, 14]
    assert [step for step, split in found if split == "validation"] == [5, 10, 15]
    trained = lines(Path("first"))[1]
    assert set(trained) == {"step", "split", "loss", "grad_norm", "learning_rate", "width"}
    assert 2 <= trained["width"] <= 8


def test_the_mean_loss_counts_targets_once(tiny_recipe: Recipe, in_tmp: Path) -> None:
    """The loss of all test rows in one batch is the loss of them one by one."""
    one = run(tiny_recipe.override(train={"per_device_eval_batch_size": 6}), "one", data=SPLITS)
    two = run(tiny_recipe.override(train={"per_device_eval_batch_size": 1}), "two", data=SPLITS)
    assert one.summary["before"]["loss"] == pytest.approx(two.summary["before"]["loss"], rel=1e-6)


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_accumulation_changes_nothing(
    tiny_recipe: Recipe, in_tmp: Path, batch: int, accumulation: int
) -> None:
    """Rows have unequal lengths, so a mean of means would differ."""
    whole = tiny_recipe.override(
        train={"per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    )
    parts = whole.override(
        train={"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    )
    one, two = run(whole, "one", data=SPLITS), run(parts, "two", data=SPLITS)
    for name, tensor in weights(one.folder).items():
        torch.testing.assert_close(tensor, weights(two.folder)[name], rtol=1e-4, atol=1e-6)
    losses = [
        [line["loss"] for line in lines(made.folder) if line["split"] == "train"] for made in (one, two)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_resumed_is_as_never_stopped(tiny_recipe: Recipe, in_tmp: Path) -> None:
    recipe = tiny_recipe.override(tiny={"dropout": 0.2}, train={"logging_steps": 3, "eval_strategy": "epoch"})
    whole = run(recipe, "whole", data=SPLITS)
    stopped = run(recipe, "stopped", data=SPLITS)
    for step in (12, 15):
        __import__("shutil").rmtree(stopped.folder / "checkpoints" / f"checkpoint-{step}")
    for gone in ("summary.json", "model/model.safetensors"):
        (stopped.folder / gone).unlink()
    again = run(recipe, "stopped", data=SPLITS, resume=True)
    assert again.summary["train"]["resumed_from"] == 8
    assert same(weights(whole.folder), weights(again.folder))
    assert lines(whole.folder) == lines(again.folder)
    for key in ("before", "after", "rows"):
        assert again.summary[key] == whole.summary[key]
    assert again.summary["train"]["loss"] == whole.summary["train"]["loss"]


def test_resuming_with_no_checkpoint_starts(tiny_recipe: Recipe, in_tmp: Path) -> None:
    fresh = run(tiny_recipe, "fresh", data=SPLITS, resume=True)
    assert fresh.summary["train"]["resumed_from"] is None


def test_resuming_a_finished_run_does_nothing(tiny_recipe: Recipe, in_tmp: Path) -> None:
    first = run(tiny_recipe, "first", data=SPLITS)
    stamp = (first.folder / "summary.json").stat().st_mtime_ns
    assert resume("first").summary == first.summary
    assert (first.folder / "summary.json").stat().st_mtime_ns == stamp


def test_the_resolved_recipe_repeats_the_run(tiny_recipe: Recipe, in_tmp: Path) -> None:
    for split, content in SPLITS.items():
        Path("data").mkdir(exist_ok=True)
        Path(f"data/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    first = run(tiny_recipe.override(data="data"), "first")
    again = run("first/recipe.yaml", "again")
    assert Path("again/recipe.yaml").read_text() == Path("first/recipe.yaml").read_text()
    assert same(weights(first.folder), weights(again.folder))


def test_a_run_in_use_is_refused_and_left_as_it_is(tiny_recipe: Recipe, in_tmp: Path) -> None:
    run(tiny_recipe.override(train={"max_steps": 1}), "first", data=SPLITS)
    before = {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="first holds another run"):
        run(tiny_recipe, "first", data=SPLITS)
    assert {path: path.read_bytes() for path in Path("first").rglob("*") if path.is_file()} == before


def test_bad_rows_are_set_aside_and_counted(tiny_recipe: Recipe, in_tmp: Path) -> None:
    spoilt = {**SPLITS, "train": [{"ids": []}, *SPLITS["train"]], "test": [*SPLITS["test"], {"ids": []}]}
    result = run(tiny_recipe.override(data={"max_bad_fraction": 0.2}), "first", data=spoilt)
    assert result.summary["rows"] == {"train": 20, "validation": 5, "test": 6, "quarantined": 2}
    quarantined = [json.loads(line) for line in Path("first/quarantine.jsonl").read_text().splitlines()]
    assert {"split": "train", "row_id": 0, "reason": "row 0 has no ids"} in quarantined
    assert len(quarantined) == 2


def test_too_many_bad_rows_end_the_run(tiny_recipe: Recipe, in_tmp: Path) -> None:
    spoilt = {**SPLITS, "train": [{"ids": []}, *SPLITS["train"]]}
    with pytest.raises(DataError, match="1 of 32 rows cannot be used, more than a share of 0"):
        run(tiny_recipe, "first", data=spoilt)
    assert json.loads(Path("first/summary.json").read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"on_error": "stop"}, "row 1[39] has no ids"),
        ({"max_bad_fraction": 0.04}, "2 of 31 rows cannot be used"),
    ],
)
def test_bad_rows_are_not_passed_by_resuming_again(
    tiny_recipe: Recipe, in_tmp: Path, data: dict[str, Any], expected: str
) -> None:
    train = [{"ids": []} if place in (13, 19) else row for place, row in enumerate(SPLITS["train"])]
    for _ in range(3):
        with pytest.raises(DataError, match=expected):
            run(tiny_recipe.override(data=data), "first", data={**SPLITS, "train": train}, resume=True)
    more = tiny_recipe.override(data={"on_error": "quarantine", "max_bad_fraction": 0.07})
    result = run(more, "first", data={**SPLITS, "train": train}, resume=True)
    assert result.summary["rows"]["quarantined"] == 2


def test_a_row_that_can_be_used_again_ends_no_resume(
    tiny_recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    from tests.core import tiny

    missing = tiny.PLUGIN.replace(
        'not row["ids"]', 'row["row_id"] == 13 and not __import__("os").path.exists("13")'
    )
    install("toolkit-missing", plugins={"missing": "toolkit_missing"}, modules={"toolkit_missing": missing})
    recipe = tiny_recipe.override(plugins=["missing"], data={"on_error": "stop"})
    with pytest.raises(DataError, match="row 13 has no ids"):
        run(recipe, "first", data=SPLITS)
    Path("13").touch()
    assert run(recipe, "first", data=SPLITS, resume=True).summary["rows"]["quarantined"] == 0
    assert not Path("first/quarantine.jsonl").exists()


def test_a_run_that_came_to_nothing_can_be_begun_again(tiny_recipe: Recipe, in_tmp: Path) -> None:
    with pytest.raises(DataError, match="no row of the test split can be used"):
        run(tiny_recipe, "first", data={**SPLITS, "test": [{"ids": []}]})
    assert Path("first/quarantine.jsonl").exists()
    result = run(tiny_recipe.override(train={"max_steps": 1}), "first", data=SPLITS)
    assert result.summary["status"] == "finished"
    assert result.summary["rows"]["quarantined"] == 0
    assert not Path("first/quarantine.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"data": {"columns": {"ids": "gone"}}}, "no column 'gone'"),
        ({"train": {"bf16": "yes"}}, "train.bf16"),
        ({"train": {"eval_strategy": "sometimes"}}, "sometimes"),
        ({"train": {"learning_rate": "1e-4"}}, "train.learning_rate"),
        ({"adapter": {"target_modules": ["q_prj"]}}, "q_prj"),
        (
            {"train": {"train_sampling_strategy": "group_by_length"}},
            "no plugin of the recipe tells how long rows are",
        ),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_written(
    tiny_recipe: Recipe, in_tmp: Path, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises((RecipeError, DataError)) as caught:
        run(tiny_recipe.override(**changes), "first", data=SPLITS)
    assert error in str(caught.value)
    assert not Path("first").exists()


def test_a_run_can_be_loaded_evaluated_and_used(tiny_recipe: Recipe, in_tmp: Path) -> None:
    result = run(tiny_recipe, "first", data=SPLITS)
    loaded = load_run("first")
    assert loaded.predict(["3 4 5 6", "9 10 11"]) == result.predict(["3 4 5 6", "9 10 11"])
    measured = loaded.evaluate(SPLITS)
    assert measured["split"] == "test"
    assert measured["rows"] == 6
    assert measured["metrics"] == pytest.approx(result.summary["after"], rel=1e-5)
    assert loaded.evaluate(SPLITS["test"])["metrics"] == pytest.approx(result.summary["after"], rel=1e-5)
    with pytest.raises(DataError, match="given in code"):
        loaded.evaluate()


def test_a_lora_run_saves_the_adapter_alone(tiny_recipe: Recipe, in_tmp: Path) -> None:
    recipe = tiny_recipe.override(
        model="base", adapter={"r": 4, "target_modules": ["q_proj", "layers.1.mlp.*"]}
    )
    run(tiny_recipe.override(train={"max_steps": 1}), "first", data=SPLITS)
    Path("first/model").rename("base")
    result = run(recipe, "second", data=SPLITS)
    trained = weights(result.folder)
    assert {name.split(".lora_")[0].removeprefix("base_model.model.model.") for name in trained} == {
        "layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj",
        "layers.1.mlp.gate_proj", "layers.1.mlp.up_proj", "layers.1.mlp.down_proj",
    }  # fmt: skip
    assert load_run("second").evaluate(SPLITS)["metrics"] == pytest.approx(result.summary["after"], rel=1e-4)
    config = json.loads(Path("second/model/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(in_tmp / "base")


def test_nothing_of_the_arguments_is_pickled(tiny_recipe: Recipe, in_tmp: Path) -> None:
    run(tiny_recipe.override(train={"hub_token": "hf_secret_123", "max_steps": 4}), "first", data=SPLITS)
    files = [path for path in Path("first").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if b"hf_secret_123" in path.read_bytes()]
    assert not list(Path("first").rglob("training_args.bin"))


def test_observers_see_the_end(
    tiny_recipe: Recipe, in_tmp: Path, install: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    source = """
        from toolkit import hookimpl

        @hookimpl
        def toolkit_run_finished(run):
            print("finished", run.folder, run.summary["status"])

        @hookimpl
        def toolkit_run_failed(run, error):
            print("failed", run.summary["status"], error.message)
    """
    # The fixture of the tiny plugin has made the folder that packages are installed into.
    install("toolkit-watch", plugins={"watch": "toolkit_watch"}, modules={"toolkit_watch": source})
    recipe = tiny_recipe.override(plugins=["tiny", "watch"], train={"max_steps": 1})
    run(recipe, "first", data=SPLITS)
    with pytest.raises(DataError):
        run(recipe.override(data={"on_error": "stop"}), "second", data={**SPLITS, "train": [{"ids": []}] * 3})
    assert capsys.readouterr().out.splitlines() == [
        "finished first finished",
        "failed failed row 2 has no ids",
    ]


GIVEN = """
from toolkit import hookimpl

@hookimpl
def toolkit_given(recipe, model, processor):
    model.shown = (recipe.name, processor)
"""


def test_objects_given_in_code_are_shown_to_the_plugins(tiny_recipe: Recipe, install: Install) -> None:
    install("toolkit-given", plugins={"given": "toolkit_given"}, modules={"toolkit_given": GIVEN})
    plugins = Plugins(tiny_recipe.override(plugins=["tiny", "given"]))
    model, _ = open_model(plugins, (None, None), seed=0)
    assert not hasattr(model, "shown")
    open_model(plugins, (model, None), seed=0)
    assert model.shown == ("tiny", None)
    loaded, _ = open_model(plugins, (None, "mine"), seed=0)
    assert loaded.shown == ("tiny", "mine")


MEASURES = """
    from toolkit import DataError, hookimpl

    @hookimpl
    def toolkit_row_length():
        def length(row):
            if not row["ids"]:
                raise DataError("nothing to measure")
            return float(len(row["ids"]))
        return length
"""


def test_rows_grouped_by_length(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> None:
    """The widths of the batches, which the tiny plugin reports: the first has the longest row, the others are alike."""
    install(
        "toolkit-measures", plugins={"measures": "toolkit_measures"}, modules={"toolkit_measures": MEASURES}
    )
    train = {
        "train_sampling_strategy": "group_by_length",
        "logging_steps": 1,
        "save_steps": 2,
        "eval_strategy": "epoch",
    }
    recipe = tiny_recipe.override(plugins=["tiny", "measures"], train=train, data={"max_bad_fraction": 0.5})
    data = {**SPLITS, "train": [*rows(39), {"ids": []}]}
    run(recipe, "whole", data=data)
    widths = [int(line["width"]) for line in lines(Path("whole")) if line["split"] == "train"]
    epochs = [widths[at : at + 10] for at in range(0, 30, 10)]
    assert all(epoch[0] == 8 for epoch in epochs)  # of nine tokens
    assert sum(widths) < 0.85 * 8 * len(widths)
    assert epochs[0] != epochs[1]
    shutil.copytree("whole", "stopped")
    for step in range(14, 31, 2):
        shutil.rmtree(f"stopped/checkpoints/checkpoint-{step}")
    Path("stopped/summary.json").unlink()
    again = run(recipe, "stopped", data=data, resume=True)
    assert again.summary["train"]["resumed_from"] == 12
    assert same(weights(Path("whole")), weights(again.folder))
    assert lines(Path("whole")) == lines(again.folder)


SEEN = """
    import json
    from toolkit import Metric, hookimpl

    class Order(Metric):
        higher_is_better = True
        def __init__(self):
            self.seen = []
        def update(self, scored):
            self.seen += scored.batch["row_id"].tolist()
        def merge(self, other):
            self.seen += other.seen
        def compute(self):
            return {f"place_{row}": place for place, row in enumerate(self.seen)}

    @hookimpl
    def toolkit_metrics():
        return [Order()]
"""


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_rows_are_measured_by_length_where_they_are_trained_so(
    strategy: str, tiny_recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    install(
        "toolkit-measures", plugins={"measures": "toolkit_measures"}, modules={"toolkit_measures": MEASURES}
    )
    install("toolkit-seen", plugins={"seen": "toolkit_seen"}, modules={"toolkit_seen": SEEN})
    train = {"train_sampling_strategy": strategy, "do_train": False, "per_device_eval_batch_size": 2}
    test = [{"ids": [3] * length} for length in (3, 7, 5, 4, 6)]
    recipe = tiny_recipe.override(plugins=["tiny", "measures", "seen"], train=train)
    made = run(recipe, "first", data={**SPLITS, "test": test})
    order = [1, 4, 2, 3, 0] if strategy == "group_by_length" else [0, 1, 2, 3, 4]
    assert [made.summary["after"][f"place_{row}"] for row in order] == [0, 1, 2, 3, 4]


ASKS = """
    from toolkit import hookimpl

    @hookimpl
    def toolkit_predict(columns):
        return lambda inputs: [columns for one in inputs]
"""


def test_predictions_know_what_the_rows_were_like(
    tiny_recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    from tests.core import tiny

    plain = tiny.PLUGIN[: tiny.PLUGIN.index("@hookimpl\ndef toolkit_predict")]
    install("toolkit-plain", plugins={"plain": "toolkit_plain"}, modules={"toolkit_plain": plain})
    install("toolkit-asks", plugins={"asks": "toolkit_asks"}, modules={"toolkit_asks": ASKS})
    recipe = tiny_recipe.override(plugins=["plain", "asks"], train={"max_steps": 1})
    result = run(recipe, "first", data=[{"tokens": row["ids"]} for row in rows(20)])
    assert result.predict(["x"]) == load_run("first").predict(["x"]) == [{"ids": "tokens"}]


def test_two_models_in_one_run_are_refused_first(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> None:
    from tests.core import tiny

    other = tiny.PLUGIN.replace('"ids", usual', '"other", usual')
    install("toolkit-other", plugins={"other": "toolkit_other"}, modules={"toolkit_other": other})
    with pytest.raises(RecipeError, match="plugins 'tiny' and 'other' both answer toolkit_model") as caught:
        run(tiny_recipe.override(plugins=["tiny", "other"]), "first", data=SPLITS)
    assert "a run trains one kind of model: name just one of them" in str(caught.value.hint)
    assert not Path("first").exists()


COUNTS = """
    from toolkit import hookimpl, Scored, Loss

    @hookimpl
    def toolkit_evaluate_batch():
        seen = []
        def evaluate(model, batch):
            seen.append(batch)
            logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
            return Scored(Loss(logits.sum() * 0 + len(seen), 1, outputs=logits), batch)
        return evaluate
"""


def test_each_evaluation_begins_anew(tiny_recipe: Recipe, install: Install, in_tmp: Path) -> None:
    install("toolkit-counts", plugins={"counts": "toolkit_counts"}, modules={"toolkit_counts": COUNTS})
    recipe = tiny_recipe.override(
        plugins=["tiny", "counts"], train={"max_steps": 1, "per_device_eval_batch_size": 2}
    )
    summary = run(recipe, "first", data=SPLITS).summary
    assert summary["before"]["loss"] == summary["after"]["loss"] == 2.0  # the mean of 1, 2 and 3


# ---- do_train, do_eval, do_predict ---------------------------------------------------------------------------


def test_do_train_false_measures_and_saves_what_is_there(tiny_recipe: Recipe, in_tmp: Path) -> None:
    result = run(tiny_recipe.override(train={"do_train": False}), "first", data=SPLITS)
    assert result.summary["status"] == "finished"
    assert (result.summary["train"]["steps"], result.summary["train"]["loss"]) == (0, None)
    assert (
        result.summary["before"]
        == result.summary["after"]
        == load_run("first").evaluate(data=SPLITS)["metrics"]
    )
    assert [line["split"] for line in lines(result.folder)] == ["test"]


def test_do_eval_false_measures_nothing(tiny_recipe: Recipe, in_tmp: Path) -> None:
    result = run(tiny_recipe.override(train={"do_eval": False}), "first", data=SPLITS)
    assert result.summary["before"] == result.summary["after"] == {}
    assert {line["split"] for line in lines(result.folder)} == {"train"}
    assert load_run("first").evaluate(data=SPLITS)["rows"] == 6
    with pytest.raises(RecipeError, match=r"train\.do_eval: false, but train\.eval_strategy is 'epoch'"):
        run(tiny_recipe.override(train={"do_eval": False, "eval_strategy": "epoch"}), "second", data=SPLITS)


READABLE = '''
"""Says of each row which token it takes for the likeliest after the first."""
from toolkit import Scored, hookimpl

@hookimpl
def toolkit_evaluate_batch(recipe):
    from toolkit_tiny import toolkit_loss
    loss = toolkit_loss()
    def evaluate(model, batch):
        found = loss(model, batch)
        told = found.outputs[:, 0].argmax(-1).tolist()
        return Scored(found, batch, predictions=told, references=batch["input_ids"][:, 1].tolist())
    return evaluate
'''


@pytest.mark.parametrize("do_eval", [True, False])
def test_do_predict_writes_what_the_model_makes_of_each_row(
    do_eval: bool, tiny_recipe: Recipe, install: Install, in_tmp: Path
) -> None:
    install(
        "toolkit-readable", plugins={"readable": "toolkit_readable"}, modules={"toolkit_readable": READABLE}
    )
    train = {"do_predict": True, "do_eval": do_eval}
    result = run(tiny_recipe.override(plugins=["tiny", "readable"], train=train), "first", data=SPLITS)
    written = [json.loads(line) for line in Path("first/predictions.jsonl").read_text().splitlines()]
    assert [one["row_id"] for one in written] == list(range(6))
    assert [one["reference"] for one in written] == [row["ids"][1] for row in SPLITS["test"]]
    for one, row in zip(written, SPLITS["test"], strict=True):
        with torch.no_grad():
            logits = result.model.eval()(input_ids=torch.tensor([row["ids"][:1]])).logits
        assert one["prediction"] == int(logits[0, 0].argmax())
    assert result.summary["artifacts"]["predictions"] == "predictions.jsonl"
    assert bool(result.summary["after"]) == do_eval
    if do_eval:
        shown = [json.loads(line) for line in Path("first/samples.jsonl").read_text().splitlines()]
        assert len(shown) == 2 * 3


def test_do_predict_without_rows_or_predictions(
    tiny_recipe: Recipe, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe.override(train={"do_predict": True}, data={"validation_fraction": 0.0})
    with pytest.raises(RecipeError, match=r"train\.do_predict: there are no test and no validation rows"):
        run(recipe, "first", data={"train": rows(8)})
    run(recipe, "second", data=SPLITS)
    assert "the plugins give no predictions that could be written down" in capsys.readouterr().err
    assert Path("second/predictions.jsonl").read_text() == ""


def test_tensorboard_shows_what_metrics_jsonl_says(tiny_recipe: Recipe, in_tmp: Path) -> None:
    from tests.compatibility.test_training_arguments import scalars

    train = {"report_to": "tensorboard", "eval_strategy": "epoch"}
    result = run(tiny_recipe.override(train=train), "first", data=SPLITS)
    shown = scalars("first/logs")
    for tag, split, name in [
        ("train/loss", "train", "loss"),
        ("eval/loss", "validation", "loss"),
        ("eval/accuracy", "validation", "accuracy"),
        ("test/accuracy", "test", "accuracy"),
    ]:
        written = [
            (one["step"], one[name]) for one in lines(result.folder) if one["split"] == split and name in one
        ]
        assert [(step, pytest.approx(value, rel=1e-6)) for step, value in written] == shown[tag], tag
    assert result.summary["artifacts"]["logs"] == "logs"


BY_PARITY = """
from toolkit import Column, Metric, hookimpl

class Targets(Metric):
    higher_is_better = True

    def __init__(self):
        self.counts = {}

    def update(self, scored):
        columns = scored.batch["columns"]
        for parity, missing, labels in zip(columns["parity"], columns["missing"], scored.batch["labels"], strict=True):
            assert missing is None
            self.counts[parity] = self.counts.get(parity, 0) + int((labels[1:] != -100).sum())

    def merge(self, other):
        for parity, count in other.counts.items():
            self.counts[parity] = self.counts.get(parity, 0) + count

    def compute(self):
        return {f"targets_{parity}": float(count) for parity, count in self.counts.items()}

@hookimpl
def toolkit_columns():
    parity = Column("parity", usual=("kind",), required=False, in_batch=True)
    return [parity, Column("missing", required=False, in_batch=True)]

@hookimpl
def toolkit_metrics():
    return [Targets()]
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_metrics_see_the_columns_of_rows(
    tiny_recipe: Recipe, install: Install, in_tmp: Path, workers: int
) -> None:
    install("toolkit-parity", plugins={"parity": "toolkit_parity"}, modules={"toolkit_parity": BY_PARITY})
    named = {
        split: [{**row, "kind": ("even", "odd")[len(row["ids"]) % 2]} for row in some]
        for split, some in SPLITS.items()
    }
    train = {"max_steps": 1, "dataloader_num_workers": workers}
    result = run(tiny_recipe.override(plugins=["tiny", "parity"], train=train), "first", data=named)
    expected = {
        f"targets_{kind}": sum(len(row["ids"]) - 1 for row in named["test"] if row["kind"] == kind)
        for kind in ("even", "odd")
    }
    assert {name: value for name, value in result.summary["after"].items() if "targets" in name} == expected
