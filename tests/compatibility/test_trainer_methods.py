"""Every method of an older Trainer works on ours, or a test shows what does its job."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers.trainer_pt_utils import nested_numpify
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from tests.compatibility.bench import Seen, numbered, tiny_llama, trained, trainer, weights
from tests.conftest import Install
from toolkit import RecipeError, Trainer, TrainingArguments, checkpoint, notices

pytestmark = pytest.mark.usefixtures("in_tmp")


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_said", set())


def batch(rows: int = 2) -> dict[str, torch.Tensor]:
    return Seen().collate(numbered(rows))


# ---- methods that are there ------------------------------------------------------------------------------


def test_train() -> None:
    made, _ = trainer(max_steps=3)
    output = made.train()
    assert output.global_step == made.state.global_step == 3
    assert output.training_loss > 0


def test_training_step() -> None:
    made, _ = trainer(max_steps=1)
    made.create_optimizer()
    loss = made.training_step(made.model, batch())
    assert loss == pytest.approx(float(tiny_llama()(**batch()).loss))
    assert all(one.grad is not None for one in made.model.parameters())


def test_compute_loss() -> None:
    made, _ = trainer()
    loss, outputs = made.compute_loss(made.model, batch(), return_outputs=True)
    logits = outputs.logits[:, :-1].flatten(0, 1)
    torch.testing.assert_close(loss, cross_entropy(logits, batch()["labels"][:, 1:].flatten()))


def test_is_process_zero() -> None:
    """`is_local_process_zero` and `is_world_process_zero`."""
    made, _ = trainer()
    assert made.is_local_process_zero() is True
    assert made.is_world_process_zero() is True


def test_save_model() -> None:
    """Nothing but the model is saved."""
    made, _ = trained(max_steps=1)
    made.save_model(output_dir="./saved_model")
    assert torch.equal(
        weights(transformers.LlamaForCausalLM.from_pretrained("saved_model")), weights(made.model)
    )
    assert {path.name for path in Path("saved_model").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip


def test_floating_point_ops_and_store_flos() -> None:
    made, _ = trainer(max_steps=2, save_strategy="no")
    one = made.floating_point_ops({"input_ids": torch.zeros(2, 3, dtype=torch.long)})
    assert one == 6 * 2 * 3 * made.model.num_parameters(exclude_embeddings=True) > 0
    made.train()
    assert made.state.total_flos == 2 * one
    made.current_flos = 5
    made.store_flos()
    assert made.state.total_flos == 2 * one + 5


def test_evaluate() -> None:
    made, _ = trainer()
    results = made.evaluate(eval_dataset=numbered(4), metric_key_prefix="eval")
    with torch.no_grad():
        assert results["eval_loss"] == pytest.approx(float(tiny_llama()(**batch(4)).loss), rel=1e-5)


def test_predict() -> None:
    made, _ = trainer()
    predictions = made.predict(test_dataset=numbered(4), metric_key_prefix="test")
    assert isinstance(predictions, PredictionOutput)
    with torch.no_grad():
        np.testing.assert_allclose(
            predictions.predictions, tiny_llama()(**batch(4)).logits, rtol=1e-4, atol=1e-6
        )
    assert "test_loss" in (predictions.metrics or {})


def test_evaluation_loop() -> None:
    made, _ = trainer()
    eval_results = made.evaluation_loop(
        dataloader=made.get_eval_dataloader(), description="Evaluation", prediction_loss_only=False,
        metric_key_prefix="eval",
    )  # fmt: skip
    assert eval_results.num_samples == 4
    assert eval_results.predictions.shape == (4, 3, 32)
    assert (eval_results.metrics or {})["eval_loss"] == pytest.approx(made.evaluate()["eval_loss"])


def test_prediction_step() -> None:
    made, _ = trainer()
    loss, logits, labels = made.prediction_step(made.model, batch(), prediction_loss_only=False)
    assert loss is not None
    assert logits is not None
    assert labels is not None
    assert (logits.shape, labels.tolist()) == ((2, 3, 32), batch()["labels"].tolist())
    assert made.prediction_step(made.model, batch(), prediction_loss_only=True)[1:] == (None, None)


def test_create_model_card() -> None:
    made, _ = trained(max_steps=1)
    made.create_model_card(
        language="en", license="apache-2.0", tags=["example", "transformers"], model_name="example-model",
        finetuned_from="bert-base-uncased", tasks=["text-classification"], dataset_tags=["imdb"], dataset="imdb",
        dataset_args="train",
    )  # fmt: skip
    card = Path("out/README.md").read_text()
    for part in ("language:\n- en", "license: apache-2.0", "# example-model", "bert-base-uncased", "imdb"):
        assert part in card


def test_create_accelerator_and_postprocess() -> None:
    made, _ = trainer()
    first = made.accelerator
    made.create_accelerator_and_postprocess()
    assert isinstance(made.accelerator, accelerate.Accelerator)
    assert made.accelerator is not first


def test_save() -> None:
    """`_save`, also of weights given to it."""
    made, _ = trainer()
    doubled = {name: 2 * tensor for name, tensor in made.model.state_dict().items()}
    made._save("elsewhere", state_dict=doubled)
    saved = transformers.LlamaForCausalLM.from_pretrained("elsewhere")
    torch.testing.assert_close(weights(saved), 2 * weights(made.model))


# ---- methods that are gone upstream ------------------------------------------------------------------------


def test_prediction_loop(capsys: pytest.CaptureFixture[str]) -> None:
    made, _ = trainer()
    found = made.prediction_loop(
        made.get_eval_dataloader(), description="Prediction", metric_key_prefix="test"
    )
    assert isinstance(found, EvalLoopOutput)
    assert found.predictions.shape == (4, 3, 32)
    assert (found.metrics or {})["test_loss"] == pytest.approx(made.evaluate()["eval_loss"])
    assert "prediction_loop is called evaluation_loop today" in capsys.readouterr().err


def test_propagate_args_to_deepspeed(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` in DeepSpeed's configuration is filled in from the arguments. The package, of which none of this code is
    a part, is only said to be there."""
    made, _ = trainer(per_device_train_batch_size=3, learning_rate=0.25)
    made.propagate_args_to_deepspeed()  # nothing to do without
    install("deepspeed", version="0.18.0", modules={"deepspeed": ""})
    with_deepspeed = importlib.util.find_spec("transformers.integrations.deepspeed")
    assert with_deepspeed is not None
    assert with_deepspeed.loader is not None
    module = importlib.util.module_from_spec(with_deepspeed)
    with_deepspeed.loader.exec_module(module)
    monkeypatch.setattr("toolkit.compat.propagate_args_to_deepspeed", module.propagate_args_to_deepspeed)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto", "train_batch_size": "auto",
        "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "zero_optimization": {"stage": 1},
    }  # fmt: skip
    plugin = SimpleNamespace(
        hf_ds_config=module.HfTrainerDeepSpeedConfig(settings), deepspeed_config=settings
    )
    made.accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin))
    made.is_deepspeed_enabled = True
    made.propagate_args_to_deepspeed()
    assert plugin.deepspeed_config["train_micro_batch_size_per_gpu"] == 3
    assert plugin.deepspeed_config["optimizer"]["params"]["lr"] == 0.25


def test_instead_of_save_tpu() -> None:
    """`_save_tpu`: upstream saves from every kind of device with one function for TPUs, which `save_model` calls."""
    from transformers.integrations.tpu import save_tpu_checkpoint

    assert callable(save_tpu_checkpoint)
    made, _ = trainer()
    made.save_model("saved")
    assert Path("saved/model.safetensors").is_file()


def test_instead_of_sorted_checkpoints() -> None:
    """`_sorted_checkpoints`: `toolkit.checkpoint.ordered`, oldest first, by step and not by name."""
    trained(max_steps=10, save_steps=1)
    steps = [checkpoint.step_of(folder) for folder in checkpoint.ordered(Path("out"))]
    assert steps == list(range(1, 11))


def test_instead_of_rotate_checkpoints() -> None:
    """`_rotate_checkpoints`: `toolkit.checkpoint.rotate`, which keeps the newest complete ones, and the best."""
    trained(max_steps=4, save_steps=1)
    checkpoint.rotate(Path("out/checkpoint-4"), 2, "out/checkpoint-1")
    assert [checkpoint.step_of(folder) for folder in checkpoint.ordered(Path("out"))] == [1, 4]


def test_instead_of_nested_gather() -> None:
    """`_nested_gather`: `trainer.gather_function`, which is `Accelerator.gather_for_metrics`."""
    made, _ = trainer()
    tensors = (torch.tensor([1.0]), {"a": torch.tensor([2])})
    gathered = made.gather_function(tensors)
    assert torch.equal(gathered[0], tensors[0])
    assert torch.equal(gathered[1]["a"], tensors[1]["a"])  # type: ignore[index]


def test_instead_of_gather_and_numpify() -> None:
    """`_gather_and_numpify`: `trainer.gather_function`, then `transformers.trainer_pt_utils.nested_numpify`."""
    made, _ = trainer()
    found = nested_numpify(made.gather_function((torch.tensor([1.0]), torch.tensor([2]))))
    assert [type(one) for one in found] == [np.ndarray, np.ndarray]


def test_instead_of_sm_patterns() -> None:
    """`_add_sm_patterns_to_gitignore`: there is no git repository any more; see `toolkit.hub.STATE`."""
    from toolkit.hub import STATE

    trained(max_steps=1, save_steps=1)
    folder = Path("out/checkpoint-1")
    left_out = {path.name for pattern in STATE for path in folder.glob(pattern)}
    assert {path.name for path in folder.iterdir()} - left_out == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip


def test_instead_of_fsdp_qlora_plugin_updates() -> None:
    """`_fsdp_qlora_plugin_updates`: `update_fsdp_plugin_peft`, which training calls with FSDP and a PEFT model."""
    import inspect

    from transformers.distributed.fsdp import update_fsdp_plugin_peft

    assert callable(update_fsdp_plugin_peft)
    assert "update_fsdp_plugin_peft(self.model, self.accelerator)" in inspect.getsource(transformers.Trainer)


# ---- whole scripts -----------------------------------------------------------------------------------------


def test_basic_script() -> None:
    training_args = TrainingArguments(
        output_dir="./results", num_train_epochs=3, per_device_train_batch_size=16, per_device_eval_batch_size=16,
        warmup_steps=500, weight_decay=0.01, logging_dir="./logs", report_to="none", disable_tqdm=True,
    )  # fmt: skip
    made = Trainer(
        model=tiny_llama(), args=training_args, train_dataset=numbered(8), eval_dataset=numbered(4)
    )
    made.train()
    assert made.state.epoch == 3.0


class CustomStep(Trainer):
    def training_step(self, model: Any, inputs: Any) -> Any:  # type: ignore[override]
        outputs = model(**inputs)
        loss = outputs.loss
        loss.backward()
        return loss


def test_custom_training_step() -> None:
    """A step with the old signature, which returns a loss with its graph, trains as the plain one does."""
    settings: dict[str, Any] = {"max_steps": 3, "learning_rate": 0.01, "logging_steps": 1, "eval_strategy": "steps",
                                "eval_steps": 1}  # fmt: skip
    custom, lines = trained(kind=CustomStep, **settings)
    plain, expected = trained(**settings)
    torch.testing.assert_close(weights(custom.model), weights(plain.model))
    assert [line["loss"] for line in lines.lines] == pytest.approx([line["loss"] for line in expected.lines])


def test_custom_training_step_with_accumulation(capsys: pytest.CaptureFixture[str]) -> None:
    trainer(kind=CustomStep, gradient_accumulation_steps=4)
    assert "CustomStep.training_step has to divide its loss by 4" in capsys.readouterr().err


class CustomLoss(Trainer):
    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:  # type: ignore[override]
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_custom_compute_loss(accumulation: int) -> None:
    settings: dict[str, Any] = {"max_steps": 2, "learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0,
                                "gradient_accumulation_steps": accumulation}  # fmt: skip
    custom, _ = trained(kind=CustomLoss, **settings)
    plain, _ = trained(**settings)
    torch.testing.assert_close(weights(custom.model), weights(plain.model))
    assert custom.evaluate()["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])


def test_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    class Saved:
        model_input_names = ("input_ids",)

        def save_pretrained(self, folder: str) -> None:
            Path(folder, "tokenizer.txt").write_text("here")

    made, _ = trainer(given={"tokenizer": Saved()})
    made.save_model("saved")
    assert Path("saved/tokenizer.txt").read_text() == "here"
    assert made.tokenizer is made.processing_class
    assert "Trainer(tokenizer=...) is called processing_class today" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="an older name of processing_class, which is given too"):
        trainer(given={"tokenizer": Saved(), "processing_class": Saved()})


def hp_space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-5, 5e-2, log=True),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 3),
    }


@pytest.mark.parametrize("with_init", [True, False])
def test_hyperparameter_search(with_init: bool) -> None:
    """Also for a trainer with `model=`: every trial starts from the same weights."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: list[torch.Tensor] = []

    class Beginnings(transformers.TrainerCallback):
        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
        ) -> None:
            seen.append(weights(model))

    how: dict[str, Any] = {"model_init": lambda: tiny_llama()} if with_init else {"model": tiny_llama()}
    made = Trainer(
        args=TrainingArguments("out", report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="epoch",
                               evaluation_strategy="epoch", learning_rate=3e-4),
        train_dataset=numbered(8), eval_dataset=numbered(4), callbacks=[Beginnings()], **how,
    )  # fmt: skip
    best = made.hyperparameter_search(
        hp_space=hp_space, direction="minimize", n_trials=4, sampler=optuna.samplers.RandomSampler(seed=1)
    )
    assert set(best.hyperparameters) == {"learning_rate", "num_train_epochs"}
    assert len(seen) == 4
    assert all(torch.equal(one, weights(tiny_llama())) for one in seen)
    assert len(list(Path("out").glob("run-*/checkpoint-*/manifest.json"))) >= 4
    if not with_init:
        assert torch.equal(weights(made.model), weights(tiny_llama()))
        assert (made.args.learning_rate, made.args.num_train_epochs) == (3e-4, 3)
        made.train()


def test_a_trial_shares_what_is_frozen() -> None:
    from toolkit.compat import _copied

    model = tiny_llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    copied = _copied(model)
    assert copied.model.embed_tokens.weight is model.model.embed_tokens.weight
    assert copied.model.norm.weight is not model.model.norm.weight
