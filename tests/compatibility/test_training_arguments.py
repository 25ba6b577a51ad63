"""Each argument of transformers 4.34 has the effect it had then, in its older spelling."""

from __future__ import annotations

import inspect
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.compatibility.bench import numbered, tiny_llama, trained, trainer, weights
from toolkit import RecipeError, TrainingArguments, notices

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def test_output_dir() -> None:
    trained(output_dir="results/here", max_steps=1, save_steps=1)
    assert Path("results/here/checkpoint-1/model.safetensors").is_file()


@pytest.mark.parametrize("flag", ["do_train", "do_eval", "do_predict"])
def test_do_flags(flag: str) -> None:
    """Scripts read them; the trainer does as it is called."""
    assert getattr(TrainingArguments("out", **{flag: True}), flag) is True
    assert getattr(TrainingArguments("out"), flag) is False
    assert TrainingArguments("out", evaluation_strategy="epoch").do_eval is True


@pytest.mark.parametrize(("strategy", "expected"), [("no", []), ("steps", [2, 4, 6, 8]), ("epoch", [4, 8])])
def test_evaluation_strategy(strategy: str, expected: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    _, seen = trained(evaluation_strategy=strategy, eval_steps=2, num_train_epochs=2)
    assert seen.evaluated == expected
    assert capsys.readouterr().err.count("evaluation_strategy is called eval_strategy today") == 1


def test_prediction_loss_only() -> None:
    alone, _ = trainer(prediction_loss_only=True)
    whole, _ = trainer(prediction_loss_only=False)
    assert alone.predict(numbered(4)).predictions is None
    assert whole.predict(numbered(4)).predictions.shape == (4, 3, 32)


def test_per_device_train_batch_size() -> None:
    _, seen = trained(per_device_train_batch_size=3, num_train_epochs=1)
    assert [len(batch) for batch in seen.batches] == [3, 3, 2]


def test_per_device_eval_batch_size() -> None:
    made, seen = trainer(per_device_eval_batch_size=3)
    made.evaluate()
    assert seen.batches == [[0, 1, 2], [3]]


def test_gradient_accumulation_steps() -> None:
    """Two micro-batches of two are one of four, and one step."""
    plain = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "num_train_epochs": 1}
    whole, _ = trained(per_device_train_batch_size=4, **plain)
    parts, _ = trained(per_device_train_batch_size=2, gradient_accumulation_steps=2, **plain)
    assert whole.state.global_step == parts.state.global_step == 2
    torch.testing.assert_close(weights(whole.model), weights(parts.model))


def test_eval_accumulation_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What evaluation has gathered goes to the CPU after so many batches."""
    moved: list[int] = []
    container = transformers.trainer.EvalLoopContainer  # type: ignore[attr-defined]
    move = container.to_cpu_and_numpy
    monkeypatch.setattr(container, "to_cpu_and_numpy", lambda self: (moved.append(1), move(self))[1])
    every, _ = trainer(per_device_eval_batch_size=1, eval_accumulation_steps=2)
    at_once, _ = trainer(per_device_eval_batch_size=1)
    first = every.predict(numbered(4)).predictions
    often = len(moved)
    moved.clear()
    assert (at_once.predict(numbered(4)).predictions == first).all()
    assert often == 3 * len(moved)  # after each two of four batches, and what is left at the end


def test_learning_rate() -> None:
    start = weights(tiny_llama())
    plain: dict[str, Any] = {
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "max_steps": 1,
        "lr_scheduler_type": "constant",
    }
    near, far = (trained(learning_rate=rate, **plain)[0] for rate in (0.01, 0.1))
    near_by, far_by = ((weights(one.model) - start).norm() for one in (near, far))
    torch.testing.assert_close(far_by, 10 * near_by, rtol=1e-3, atol=0.0)


def test_weight_decay() -> None:
    """Norms and biases are spared: their groups have none."""
    made, _ = trained(weight_decay=0.5, learning_rate=0.1, max_steps=1)
    decayed, spared = made.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    names = {id(one): name for name, one in made.model.named_parameters()}
    assert all("norm" in names[id(one)] or names[id(one)].endswith("bias") for one in spared["params"])
    assert not any("norm" in names[id(one)] or names[id(one)].endswith("bias") for one in decayed["params"])
    none, _ = trained(learning_rate=0.1, max_steps=1)
    assert weights(made.model).norm() < weights(none.model).norm()


@pytest.mark.parametrize(
    ("argument", "value", "read"),
    [("adam_beta1", 0.5, lambda group: group["betas"][0]), ("adam_beta2", 0.7, lambda group: group["betas"][1]),
     ("adam_epsilon", 1e-3, lambda group: group["eps"])],
)  # fmt: skip
def test_adam(argument: str, value: float, read: Any) -> None:
    made, _ = trained(max_steps=3, learning_rate=0.01, **{argument: value})
    assert all(read(group) == value for group in made.optimizer.param_groups)
    plain, _ = trained(max_steps=3, learning_rate=0.01)
    assert not torch.equal(weights(made.model), weights(plain.model))


def test_max_grad_norm() -> None:
    start = weights(tiny_llama())
    made, _ = trained(
        max_grad_norm=0.01, optim="sgd", learning_rate=1.0, max_steps=1, lr_scheduler_type="constant"
    )
    torch.testing.assert_close((weights(made.model) - start).norm(), torch.tensor(0.01), rtol=1e-3, atol=0.0)


def test_num_train_epochs() -> None:
    made, seen = trained(num_train_epochs=3)
    assert (made.state.global_step, made.state.epoch) == (12, 3.0)
    assert sorted(number for batch in seen.batches for number in batch) == sorted(3 * list(range(8)))


def test_max_steps() -> None:
    made, _ = trained(num_train_epochs=3, max_steps=5)
    assert made.state.global_step == 5


def rates(**arguments: Any) -> list[float]:
    """The learning rate of each step; logged is that of the next."""
    _, seen = trained(
        logging_steps=1, learning_rate=1.0, optim="sgd", max_grad_norm=1e-6, max_steps=8, **arguments
    )
    return [line["learning_rate"] for line in seen.lines]


def test_lr_scheduler_type() -> None:
    assert rates(lr_scheduler_type="constant") == [1.0] * 8
    assert rates(lr_scheduler_type="linear") == pytest.approx([1 - step / 8 for step in range(8)])
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    assert rates(lr_scheduler_type="cosine") == pytest.approx(cosine)


def test_warmup_steps() -> None:
    assert rates(lr_scheduler_type="constant_with_warmup", warmup_steps=4)[:5] == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_warmup_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    """Half of eight steps; number of steps, where there is one, counts more, as it always did."""
    assert rates(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.5)[:5] == [
        0.0,
        0.25,
        0.5,
        0.75,
        1.0,
    ]
    assert "warmup_ratio=0.5 is spelt warmup_steps=0.5 today" in capsys.readouterr().err
    assert rates(lr_scheduler_type="constant_with_warmup", warmup_ratio=0.5, warmup_steps=2)[:3] == [
        0.0,
        0.5,
        1.0,
    ]
    assert rates(lr_scheduler_type="constant_with_warmup", warmup_ratio=1.0)[-1] == pytest.approx(7 / 8)
    with pytest.raises(RecipeError, match="a number from 0 to 1, found 2"):
        TrainingArguments("out", warmup_ratio=2)


def scalars(folder: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    return {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_logging_dir_and_report_to() -> None:
    _, seen = trained(logging_dir="logs", report_to="tensorboard", logging_steps=2, max_steps=4)
    steps, losses = zip(*scalars("logs")["train/loss"], strict=True)
    assert list(steps) == [line["step"] for line in seen.lines] == [2, 4]
    assert list(losses) == pytest.approx([line["loss"] for line in seen.lines])
    trained(report_to=["tensorboard"], max_steps=1)
    assert list(Path("out/runs").rglob("events.out.tfevents.*"))


@pytest.mark.parametrize(("strategy", "expected"), [("no", []), ("steps", [3, 6]), ("epoch", [4, 8])])
def test_logging_strategy_and_steps(strategy: str, expected: list[int]) -> None:
    _, seen = trained(logging_strategy=strategy, logging_steps=3, num_train_epochs=2)
    assert [line["step"] for line in seen.lines] == expected


@pytest.mark.parametrize(("strategy", "expected"), [("no", []), ("steps", [3, 6, 8]), ("epoch", [4, 8])])
def test_save_strategy_and_steps(strategy: str, expected: list[int]) -> None:
    _, seen = trained(save_strategy=strategy, save_steps=3, num_train_epochs=2)
    assert seen.saved == expected
    assert len(list(Path().glob("out/checkpoint-*/manifest.json"))) == len(expected)


def test_save_total_limit() -> None:
    trained(save_steps=1, max_steps=4, save_total_limit=2)
    assert sorted(path.name for path in Path("out").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_seed() -> None:
    one, again, other = (trained(seed=seed, max_steps=4)[1].batches for seed in (7, 7, 8))
    assert one == again != other


def test_dataloader_drop_last() -> None:
    _, seen = trained(dataloader_drop_last=True, per_device_train_batch_size=3, num_train_epochs=1)
    assert [len(batch) for batch in seen.batches] == [3, 3]


def test_dataloader_num_workers() -> None:
    made, _ = trainer(dataloader_num_workers=2)
    made.data_collator = lambda rows: {"input_ids": torch.tensor([[os.getpid()] for _ in rows])}
    processes = {int(batch["input_ids"][0]) for batch in made.get_train_dataloader()}
    assert len(processes) == 2
    assert os.getpid() not in processes


def test_workers_that_persist_measure_the_rows_that_are_asked_for() -> None:
    made, _ = trainer(dataloader_num_workers=1, dataloader_persistent_workers=True)
    of_four = made.evaluate()["eval_loss"]
    predicted = made.predict(numbered(2))  # type: ignore[arg-type]
    assert len(predicted.predictions) == 2
    assert made.evaluate(numbered(2))["eval_loss"] == predicted.metrics["test_loss"] != of_four


@pytest.mark.parametrize("pinned", [True, False])
def test_dataloader_pin_memory(pinned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's loader is asked for; `use_cpu` switches it off, as there is nothing to pin for."""
    asked: list[bool] = []
    loader = transformers.trainer.DataLoader  # type: ignore[attr-defined]

    def noting(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["pin_memory"])
        return loader(*args, **kwargs)

    monkeypatch.setattr(transformers.trainer, "DataLoader", noting)
    made, _ = trainer(dataloader_pin_memory=pinned, use_cpu=False)
    made.get_train_dataloader()
    assert asked == [pinned]


def accuracy(prediction: Any) -> dict[str, float]:
    """Falls from one evaluation to the next: 0.9, 0.8, ..."""
    accuracy.calls += 1  # type: ignore[attr-defined]
    return {"accuracy": 1.0 - accuracy.calls / 10}  # type: ignore[attr-defined]


@pytest.mark.parametrize(("greater", "best"), [(True, 1), (False, 4)])
def test_load_best_model_at_end(greater: bool, best: int) -> None:
    """With `metric_for_best_model` and `greater_is_better`."""
    accuracy.calls = 0  # type: ignore[attr-defined]
    made, _ = trained(
        evaluation_strategy="steps", eval_steps=1, save_steps=1, max_steps=4, load_best_model_at_end=True,
        metric_for_best_model="accuracy", greater_is_better=greater, given={"compute_metrics": accuracy},
        learning_rate=0.01,
    )  # fmt: skip
    assert made.state.best_model_checkpoint == f"out/checkpoint-{best}"
    kept = transformers.LlamaForCausalLM.from_pretrained(f"out/checkpoint-{best}")
    assert torch.equal(weights(made.model), weights(kept))


def test_checkpoints_of_a_script_for_upstream_need_no_best() -> None:
    """They have no manifest; the folder of the best weights may have stayed elsewhere."""
    asked = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True}
    for steps in (2, 4):
        accuracy.calls = 0  # type: ignore[attr-defined]
        made, _ = trainer(**asked, max_steps=steps, metric_for_best_model="accuracy", greater_is_better=True,
                          given={"compute_metrics": accuracy})  # fmt: skip
        made.train("out/checkpoint-2" if steps == 4 else None)
        for ours in (*Path("out").glob("*/manifest.json"), *Path("out").glob("*/running_loss.json")):
            ours.unlink()
        shutil.rmtree("out/checkpoint-1", ignore_errors=True)
    assert made.state.global_step == 4


@pytest.mark.parametrize("skipped", [False, True])
def test_ignore_data_skip(skipped: bool) -> None:
    """Resumed in the middle of an epoch: from the batch that comes next, or from the epoch's first one."""
    _, whole = trained(save_steps=2, max_steps=4)
    made, seen = trainer(max_steps=4, ignore_data_skip=skipped)
    made.train(resume_from_checkpoint="out/checkpoint-2")
    assert seen.batches[:2] == (whole.batches[:2] if skipped else whole.batches[2:])


@pytest.mark.parametrize(
    ("name", "expected", "fused"),
    [("adamw_hf", torch.optim.AdamW, None), ("adamw_torch", torch.optim.AdamW, None),
     ("adamw_torch_fused", torch.optim.AdamW, True), ("adamw_apex_fused", torch.optim.AdamW, True),
     ("adafactor", transformers.Adafactor, None)],
)  # fmt: skip
def test_optim(name: str, expected: type, fused: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = trained(optim=name, max_steps=1)
    optimizer = made.optimizer.optimizer
    assert type(optimizer) is expected
    assert optimizer.defaults.get("fused") is fused
    assert f"optim={name} is" in capsys.readouterr().err or name not in ("adamw_hf", "adamw_apex_fused")


def test_optim_of_a_package_that_is_missing() -> None:
    made, _ = trainer(optim="adamw_anyprecision", max_steps=1)
    with pytest.raises(ValueError, match="torchdistx"):
        made.train()


@pytest.mark.parametrize("reporter", ["wandb", "comet_ml", "dagshub", "clearml", "codecarbon", "azure_ml"])
def test_report_to_others(reporter: str) -> None:
    """Passed on to transformers, which says what to install."""
    with pytest.raises((RuntimeError, ImportError), match=r"(?i)install"):
        trainer(report_to=reporter)


def test_resume_from_checkpoint() -> None:
    """True goes on from the newest checkpoint, or begins where there is none; so does a path."""
    first, _ = trained(max_steps=2, save_steps=1, resume_from_checkpoint=True)
    assert first._resumed_from is None
    again, _ = trained(max_steps=4, save_steps=1, resume_from_checkpoint=True)
    assert (again._resumed_from, again.state.global_step) == (Path("out/checkpoint-2"), 4)
    named, _ = trained(max_steps=5, resume_from_checkpoint="out/checkpoint-3")
    assert named._resumed_from == Path("out/checkpoint-3")


def test_what_is_gone_is_refused() -> None:
    with pytest.raises(RecipeError, match="overwrite_output_dir: exists no more"):
        TrainingArguments("out", overwrite_output_dir=True)
    with pytest.raises(RecipeError, match="an older name of eval_strategy, which is given too"):
        TrainingArguments("out", evaluation_strategy="no", eval_strategy="epoch")


def test_arguments_by_position() -> None:
    assert TrainingArguments("out").output_dir == "out"
    assert next(iter(inspect.signature(transformers.TrainingArguments).parameters)) == "output_dir"


# ---- whole sets of arguments -----------------------------------------------------------------------------


def test_basic_arguments() -> None:
    args = TrainingArguments(
        output_dir="./results", do_train=True, do_eval=True, evaluation_strategy="steps",
        per_device_train_batch_size=8, per_device_eval_batch_size=16, learning_rate=5e-5, num_train_epochs=3,
        logging_dir="./logs", logging_steps=500, save_steps=1000,
    )  # fmt: skip
    assert (args.eval_strategy, args.logging_dir) == ("steps", "./logs")


def test_advanced_arguments() -> None:
    args = TrainingArguments(
        output_dir="./results", do_train=True, do_eval=True, evaluation_strategy="epoch",
        per_device_train_batch_size=8, per_device_eval_batch_size=16, learning_rate=3e-5, num_train_epochs=5,
        gradient_accumulation_steps=4, lr_scheduler_type="linear", warmup_steps=500, logging_dir="./logs",
        logging_steps=200, save_strategy="epoch", save_total_limit=3, load_best_model_at_end=True,
        metric_for_best_model="accuracy", greater_is_better=True,
    )  # fmt: skip
    assert args.get_warmup_steps(10_000) == 500


def test_arguments_of_a_large_run(capsys: pytest.CaptureFixture[str]) -> None:
    """It evaluates by steps and saves by epochs, so that the best model could not be loaded: saving follows."""
    args = TrainingArguments(
        output_dir="./results", do_train=True, do_eval=True, evaluation_strategy="steps",
        per_device_train_batch_size=16, per_device_eval_batch_size=32, learning_rate=2e-5, num_train_epochs=10,
        logging_dir="./logs", logging_steps=100, save_strategy="epoch", save_total_limit=2,
        load_best_model_at_end=True, metric_for_best_model="f1", greater_is_better=True, seed=42,
        dataloader_drop_last=True, dataloader_num_workers=4, dataloader_pin_memory=True, optim="adamw_torch",
        report_to="wandb", push_to_hub=True,
    )  # fmt: skip
    assert (args.save_strategy, args.save_steps, args.eval_steps) == ("steps", 100, 100)
    assert "save_strategy=epoch follows eval_strategy=steps" in capsys.readouterr().err


def test_arguments_of_logging_and_resuming() -> None:
    args = TrainingArguments(
        output_dir="./results", do_train=True, do_eval=True, evaluation_strategy="epoch", prediction_loss_only=True,
        per_device_train_batch_size=32, per_device_eval_batch_size=64, learning_rate=1e-4, num_train_epochs=3,
        logging_dir="./logs", logging_strategy="epoch", logging_steps=50, save_strategy="no", seed=123,
        dataloader_drop_last=False, dataloader_num_workers=2, dataloader_pin_memory=False, optim="adamw_hf",
        report_to="tensorboard", resume_from_checkpoint=True,
    )  # fmt: skip
    assert (args.optim, args.resume_from_checkpoint) == ("adamw_torch", True)
