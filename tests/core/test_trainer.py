"""`toolkit.Trainer` used as transformers' own, without plugins."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.core.tiny import rows
from toolkit import LoraConfig, Trainer, TrainingArguments


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    size: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, **size)
    )


def dataset(count: int = 8) -> list[dict[str, list[int]]]:
    return [{"input_ids": row["ids"][:3], "labels": row["ids"][:3]} for row in rows(count)]


def arguments(**changes: Any) -> TrainingArguments:
    values: dict[str, Any] = {
        "output_dir": "out", "per_device_train_batch_size": 2, "learning_rate": 0.1, "optim": "sgd", "max_steps": 1,
        "report_to": "none", "use_cpu": True, "max_grad_norm": 0.0, "lr_scheduler_type": "constant",
        "disable_tqdm": True, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return TrainingArguments(**{**values, **changes})


class Mean(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        logits = model(input_ids=inputs["input_ids"]).logits[:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, inputs["labels"][:, 1:].flatten())


class Delegating(Trainer):
    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class Stated(Mean):
    loss_is_scaled_for_ga = True


def moved(kind: type[Trainer], accumulation: int) -> float:
    """How far one step moves the weights; eight rows in all, of equal length."""
    trained = model()
    start = torch.cat([parameter.detach().flatten() for parameter in trained.parameters()])
    args = arguments(per_device_train_batch_size=8 // accumulation, gradient_accumulation_steps=accumulation)
    kind(model=trained, args=args, train_dataset=dataset()).train()
    return float(
        (torch.cat([parameter.detach().flatten() for parameter in trained.parameters()]) - start).norm()
    )


@pytest.mark.parametrize(("kind", "factor"), [(Trainer, 1), (Mean, 1), (Delegating, 1), (Stated, 4)])
def test_accumulation_scales_gradients_once(in_tmp: Path, kind: type[Trainer], factor: int) -> None:
    """`Stated` says that its loss is scaled although it is a mean, and gets what it asks for."""
    assert moved(kind, 4) == pytest.approx(factor * moved(kind, 1), rel=1e-3)


def test_predictions_are_as_upstream(in_tmp: Path) -> None:
    ours = Trainer(model=model(), args=arguments()).predict(dataset(4))
    theirs = transformers.Trainer(model=model(), args=arguments()).predict(dataset(4))
    assert (ours.predictions == theirs.predictions).all()
    assert ours.metrics["test_loss"] == theirs.metrics["test_loss"]  # type: ignore[index]


def test_a_model_with_add_adapter_resumes(in_tmp: Path) -> None:
    """transformers 5 saves such a model and cannot load it."""

    def trainer(steps: int) -> Trainer:
        adapted = model()
        adapted.add_adapter(
            LoraConfig(r=2, target_modules=["layers.*.self_attn.q_proj"]), adapter_name="lora"
        )
        args = arguments(max_steps=steps, save_steps=2, optim="adamw_torch", learning_rate=0.01)
        return Trainer(model=adapted, args=args, train_dataset=dataset())

    def adapter(made: Trainer) -> torch.Tensor:
        return torch.cat(
            [p.detach().flatten() for name, p in made.model.named_parameters() if "lora_" in name]
        )

    whole = trainer(4)
    whole.train()
    resumed = trainer(4)
    assert not torch.equal(adapter(resumed), adapter(whole))
    resumed.train(resume_from_checkpoint="out/checkpoint-2")
    assert torch.equal(adapter(resumed), adapter(whole))


def test_true_resumes_from_the_newest_complete_checkpoint(in_tmp: Path) -> None:
    made = Trainer(model=model(), args=arguments(max_steps=4, save_steps=2), train_dataset=dataset())
    made.train(resume_from_checkpoint=True)
    Path("out/checkpoint-4/manifest.json").unlink()
    again = Trainer(model=model(), args=arguments(max_steps=5, save_steps=9), train_dataset=dataset())
    again.train(resume_from_checkpoint=True)
    assert again._resumed_from == Path("out/checkpoint-2")


def test_checkpoints_of_upstream_can_be_gone_on_from(in_tmp: Path) -> None:
    args = arguments(max_steps=2, save_steps=2)
    transformers.Trainer(model=model(), args=args, train_dataset=dataset()).train()
    made = Trainer(model=model(), args=arguments(max_steps=4), train_dataset=dataset())
    made.train(resume_from_checkpoint="out/checkpoint-2")
    assert made.state.global_step == 4


def test_what_is_saved_generates_with_a_cache(in_tmp: Path) -> None:
    for given in ({"model": model()}, {"model_init": model}):
        made = Trainer(args=arguments(), train_dataset=dataset(), **given)  # type: ignore[arg-type]
        made.train()
        assert made.model.config.use_cache is ("model_init" in given)  # upstream forgets it there
        made.save_model("saved")
        assert LlamaConfig.from_pretrained("saved").use_cache is True
        assert made.release_model().config.use_cache is True


def test_upstreams_methods_are_called_as_we_override_them() -> None:
    """A changed signature upstream shall be noticed here, not in a run."""
    expected = {
        "_get_dataloader": "dataset description batch_size sampler_fn is_training dataloader_key",
        "_get_train_sampler": "train_dataset",
        "get_batch_samples": "epoch_iterator num_batches device",
        "compute_loss": "model inputs return_outputs num_items_in_batch",
        "prediction_step": "model inputs prediction_loss_only ignore_keys",
        "log": "logs start_time",
        "_evaluate": "trial ignore_keys_for_eval skip_scheduler",
        "_save": "output_dir state_dict",
        "_save_checkpoint": "model trial",
        "_load_from_checkpoint": "resume_from_checkpoint model",
        "_load_best_model": "",
        "call_model_init": "trial",
    }
    for name, parameters in expected.items():
        found = list(inspect.signature(getattr(transformers.Trainer, name)).parameters)[1:]
        assert found == parameters.split(), name
    source = inspect.getsource(transformers.Trainer._inner_training_loop)
    assert "self._run_epoch(\n                model=model,\n                epoch=epoch," in source
    assert "self._init_training_state(" in source
    assert source.index("self._globalstep_last_logged =") < source.index("on_train_begin")
