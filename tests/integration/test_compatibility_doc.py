"""docs/compatibility.md names everything that older scripts rely on, as it is, with a test that is there."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import re
from pathlib import Path

import pytest

from toolkit import LoraConfig, Recipe, Trainer, TrainingArguments
from toolkit.adapter_settings import config_class
from toolkit.spellings import GONE, RENAMED

TESTS = Path(__file__).parents[1] / "compatibility"
PAGE = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()


def _words(text: str) -> list[str]:
    return text.split()


LORA = _words(
    """
    r target_modules lora_alpha lora_dropout fan_in_fan_out bias use_rslora modules_to_save init_lora_weights
    layers_to_transform layers_pattern rank_pattern alpha_pattern megatron_config megatron_core loftq_config
    use_dora layer_replication
    """
)
ARGUMENTS = _words(
    """
    output_dir do_train do_eval do_predict evaluation_strategy prediction_loss_only
    per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps eval_accumulation_steps
    learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm num_train_epochs max_steps
    lr_scheduler_type warmup_steps warmup_ratio logging_dir logging_strategy logging_steps save_strategy
    save_steps save_total_limit seed dataloader_drop_last dataloader_num_workers dataloader_pin_memory
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip optim report_to
    resume_from_checkpoint push_to_hub
    """
)
METHODS = _words(
    """
    train training_step compute_loss is_local_process_zero is_world_process_zero save_model store_flos
    evaluate predict evaluation_loop prediction_step floating_point_ops init_hf_repo create_model_card
    push_to_hub prediction_loop create_accelerator_and_postprocess propagate_args_to_deepspeed _save_tpu _save
    _sorted_checkpoints _rotate_checkpoints _nested_gather _push_from_checkpoint _finish_current_push
    _gather_and_numpify _add_sm_patterns_to_gitignore _fsdp_qlora_plugin_updates
    """
)


def section(title: str) -> str:
    found = re.search(rf"^## `?{title}`?$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def rows(title: str) -> list[tuple[str, str]]:
    """Name and spelling of each row."""
    return re.findall(r"^\| `(\w+)` \| (.*?) \| `\S+` \|$", section(title), re.MULTILINE)


def test_every_name_has_its_row() -> None:
    assert [name for name, _ in rows("LoraConfig")] == LORA
    assert [name for name, _ in rows("TrainingArguments")] == ARGUMENTS
    assert [name for name, _ in rows("Trainer")] == METHODS
    assert (len(LORA), len(ARGUMENTS), len(METHODS)) == (18, 39, 28)


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(test_\w+\.py::\w+)`", PAGE))))
def test_tests_are_there(reference: str) -> None:
    file, _, name = reference.partition("::")
    module = ast.parse((TESTS / file).read_text())
    assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


def test_every_row_names_a_test() -> None:
    for row in re.findall(r"^\| (?!---)(?!field|argument|method|script).*\|$", PAGE, re.MULTILINE):
        assert re.search(r"`test_\w+\.py::\w+` \|$", row), row


def test_the_same_is_the_same(tmp_path: Path) -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    arguments = TrainingArguments(str(tmp_path))
    for name, spelling in rows("LoraConfig"):
        assert (name in fields) == ("the same" in spelling or name == "megatron_config"), name
    for name, spelling in rows("TrainingArguments"):
        assert hasattr(arguments, name) == spelling.startswith("the same"), name
        TrainingArguments(**{"output_dir": str(tmp_path), name: _any_value(name, tmp_path)})
    for name, spelling in rows("Trainer"):
        assert hasattr(Trainer, name) == spelling.startswith("the same"), name


def _any_value(name: str, folder: Path) -> object:
    values = {
        "output_dir": str(folder),
        "evaluation_strategy": "no",
        "warmup_ratio": 0.1,
        "logging_dir": "logs",
    }
    return values[name] if name in values else getattr(TrainingArguments(str(folder)), name)


def test_what_is_spelt_otherwise_is_there() -> None:
    assert {f"`{new}`" for old, new in RENAMED.items() if old in ARGUMENTS} == {"`eval_strategy`"}
    for _, spelling in rows("Trainer"):
        for name in re.findall(r"`((?:toolkit|transformers)[\w.]+)`", spelling):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_what_is_gone_is_listed() -> None:
    listed = re.search(r"^Refused.*?\.$", section("TrainingArguments"), re.MULTILINE | re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed[0])) == set(GONE)


def test_kinds_are_there() -> None:
    listed = re.search(r"by `kind`: (.*?)\. The other", section("LoraConfig"), re.DOTALL)
    assert listed is not None
    for kind in re.findall(r"`(\w+)`", listed[1]):
        config_class(kind)


@pytest.mark.parametrize("block", re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
def test_recipes_on_the_page_are_recipes(block: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(block)
    Recipe.load(tmp_path / "mine.yaml").validate()
