"""Which modules an adapter trains, named as in a recipe, and PEFT to train them."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import peft
from peft.config import PromptLearningConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from toolkit import loftq
from toolkit.adalora import until_known
from toolkit.adapter_settings import as_peft_config, config_class, field_faults, start_faults
from toolkit.errors import ModelError, RecipeError, first_line
from toolkit.model_files import ADAPTER_CONFIG, json_of
from toolkit.modules import ALL_LINEAR, expand, glob, within_layers
from toolkit.notices import say_once
from toolkit.structure import no_mapping, plain

_LAYERS = ("layers_to_transform", "layers_pattern")
_DEFAULTS: dict[str, Any] = {**dict.fromkeys(_LAYERS), "init_lora_weights": True, "loftq_config": {}}


class LoraConfig(peft.LoraConfig):
    """PEFT's, which also takes what it refuses.

    Globs in `target_modules` and `all-linear` with `layers_to_transform` are understood also where PEFT alone reads
    them, as in `model.add_adapter(config)`; `loftq`, which `adapt` computes on any device, needs no `loftq_config`.
    """

    def __post_init__(self) -> None:
        mine = self._taken_out()
        super().__post_init__()
        for key, value in mine.items():
            setattr(self, key, value)
        entries = vars(self)["target_modules"]
        globs = isinstance(entries, set) and any("*" in entry for entry in entries)
        if globs and self.layers_to_transform is None:
            self.globs = sorted(entries)
            self.target_modules = "|".join(glob(entry).pattern for entry in self.globs)

    def _taken_out(self) -> dict[str, Any]:
        """What PEFT would refuse, each taken back to its default and returned."""
        mine: dict[str, Any] = {}
        if vars(self)["target_modules"] == ALL_LINEAR:
            mine |= {key: getattr(self, key) for key in _LAYERS}
        if vars(self)["init_lora_weights"] == "loftq":
            given: Any = self.loftq_config
            given = given if isinstance(given, Mapping) else vars(given)
            if "quantization_level" in given:
                say_once("adapter.loftq_config: quantization_level is called loftq_bits today")
            mine |= {"init_lora_weights": "loftq", "loftq_config": loftq.settings(given)}
        for key in mine:
            setattr(self, key, _DEFAULTS[key])
        return mine

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "target_modules" and vars(self).get(key) == ALL_LINEAR and isinstance(value, set):
            value = within_layers(sorted(value), self)  # PEFT has found the layers, all over the model
        super().__setattr__(key, value)


# ---- adapting ------------------------------------------------------------------------------------------


def adapt(model: nn.Module, adapter: Mapping[str, Any] | peft.PeftConfig) -> Any:
    """The model with an adapter, ready to train; what else trains is PEFT's decision (`bias`, `modules_to_save`).

    New weights are drawn from torch's global generator.

        model = adapt(model, {"r": 16, "target_modules": ["decoder.layers.*.self_attn.q_proj"]})

    Args:
        adapter: as in a recipe (`kind`, by default lora, and the fields of PEFT's class for it), or a PEFT config.
    Raises:
        RecipeError: a setting is wrong, or names modules that are not there; all faults together.
        ModelError: the model has an adapter already.
    """
    if isinstance(model, peft.PeftModel) or any(isinstance(one, BaseTunerLayer) for one in model.modules()):
        raise ModelError(
            f"the {type(model).__name__} has an adapter already",
            hint="leave `adapter` out to train that one further, or merge it into the weights first",
        )
    config = expand(model, adapter if isinstance(adapter, peft.PeftConfig) else configure(adapter))
    if isinstance(config, peft.LoraConfig) and (faults := start_faults(vars(config))):
        raise RecipeError.gather(faults)
    _set_task(model, config)
    adapted = _adapted(model, config)
    # PEFT may have shortened the list to a set, whose order differs from process to process in what is saved.
    if isinstance(getattr(config, "target_modules", None), set):
        config.target_modules = sorted(config.target_modules)
    return adapted


def _adapted(model: nn.Module, config: Any) -> Any:
    starts_from_loftq = getattr(config, "init_lora_weights", None) == "loftq"
    try:
        with _usual_warnings_kept_quiet(), loftq.computed_here(model):
            adapted: Any = peft.get_peft_model(model, config)
    except (ValueError, TypeError, NotImplementedError, ImportError, AttributeError) as error:
        raise RecipeError(f"adapter: {error}", hint=f"see peft.{type(config).__name__}") from error
    except (RuntimeError, MemoryError, OverflowError) as error:  # of the allocator
        raise RecipeError(
            f"adapter: its weights cannot be made: {first_line(error)}",
            hint="make it smaller: adapter.r, or num_virtual_tokens",
        ) from error
    if starts_from_loftq and getattr(model, "is_quantized", False):
        # The base is as anyone loads it, and the factors are saved: there is nothing to compute again.
        config.init_lora_weights, config.loftq_config = True, {}
    return adapted


def _set_task(model: nn.Module, config: peft.PeftConfig) -> None:
    """PEFT wraps a model by its task, and some kinds need such a wrapper; each passes on certain inputs."""
    reads = getattr(model, "main_input_name", "input_ids")
    if isinstance(config, PromptLearningConfig) and config.task_type is None:
        if reads != "input_ids" or not hasattr(model, "prepare_inputs_for_generation"):
            raise RecipeError(
                f"adapter.kind: virtual tokens are for models that go on writing; {type(model).__name__} does not",
                hint="choose a kind that adapts modules, such as lora or ia3",
            )
        both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
        config.task_type = peft.TaskType.SEQ_2_SEQ_LM if both else peft.TaskType.CAUSAL_LM
    if config.task_type and reads != "input_ids":
        raise RecipeError(
            f"adapter.task_type: for {config.task_type} PEFT passes input_ids; {type(model).__name__} reads {reads}",
            hint="leave task_type out",
        )


def load_adapter(model: nn.Module, place: Any, revision: str | None = None, *, to_train: bool = False) -> Any:
    """The model with the adapter of a folder, or of the hub, on it."""
    given: dict[str, Any] = {"revision": revision, "is_trainable": to_train}
    facts = json_of(str(place), ADAPTER_CONFIG, revision) or {}
    if facts.get("init_lora_weights") == "loftq":
        known = {field.name for field in dataclasses.fields(peft.LoraConfig)} & facts.keys()
        settings = {key: facts[key] for key in known} | {"inference_mode": not to_train}
        given["config"] = LoraConfig(**settings)  # PEFT's wants what it computes LoftQ with
    with _usual_warnings_kept_quiet(), loftq.computed_here(model):
        warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
        return peft.PeftModel.from_pretrained(model, place, **given)


@contextlib.contextmanager
def _usual_warnings_kept_quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT reads what transformers renamed
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")  # that of an unloaded one
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # of norms that are not torch's
        yield


def configure(adapter: Mapping[str, Any], quantization: Any = None) -> peft.PeftConfig:
    """A recipe's `adapter` as PEFT's config, its fields checked; which modules it names is for `expand` to say.

    Args:
        quantization: of the recipe's model, where there is a recipe.
    Raises:
        RecipeError: every unknown key and every value of the wrong type or out of range, together.
    """
    if not isinstance(adapter, Mapping):
        raise no_mapping("adapter", adapter)
    values = {key: value for key, value in plain(adapter, "adapter").items() if value is not None}
    cls = config_class(values.pop("kind", "lora"))
    if faults := field_faults(cls, values, quantization):
        raise RecipeError.gather(faults)
    return as_peft_config(LoraConfig if cls is peft.LoraConfig else cls, until_known(cls, values))


def trainable_parameters(model: nn.Module) -> tuple[int, int]:
    """How many parameters train, and how many there are; a 4-bit weight counts as the weights packed into it."""
    counts = [(_count(parameter), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trains in counts if trains), sum(count for count, _ in counts)


def _count(parameter: nn.Parameter) -> int:
    packed: Any = getattr(parameter, "quant_state", None)
    return math.prod(packed.shape) if packed is not None else parameter.numel()
