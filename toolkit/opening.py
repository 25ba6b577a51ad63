"""A run's rows and model, opened as its recipe says or as they are given in code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import set_seed

from toolkit.adapters import adapt, load_adapter
from toolkit.answers import expected
from toolkit.base_model import as_begun
from toolkit.data.columns import name_columns
from toolkit.data.confined import confined
from toolkit.data.sources import data_from_objects, open_splits
from toolkit.data.splits import Rows, limited, with_validation
from toolkit.errors import CheckpointError, DataError, ModelError
from toolkit.folder import RunFolder
from toolkit.model_files import ADAPTER_WEIGHTS, check_adapter, is_whole
from toolkit.plugins import Plugins
from toolkit.quantization import keep_unpacked
from toolkit.recipe import ModelSpec

GIVEN_IN_CODE = "(given in code)"
"""What stands in a recipe for an object."""


def open_data(plugins: Plugins, data: Any, *, hold_out: bool = True) -> dict[str, Rows]:
    """The rows of a run by split, with the columns the plugins read.

    Args:
        data: objects given in code instead of the recipe's source.
        hold_out: set validation rows aside where the data has none; without it, a single split is one to measure.
    Raises:
        DataError: the source cannot be read, is empty, or lacks a column.
    """
    recipe = plugins.recipe
    train = recipe.train
    seed = int(train.get("data_seed", train.get("seed", 42)))
    own_source = plugins.dataset()
    if data is None and recipe.data.source == GIVEN_IN_CODE:
        raise DataError("the run's data was given in code", hint="give it again, in code: data=...")
    if data is not None:
        splits = data_from_objects(data)
    elif own_source is not None:
        splits = data_from_objects(own_source())
    else:
        splits = open_splits(recipe.data)
    splits = name_columns(splits, plugins.columns(), recipe.data.columns)
    if data is None and own_source is None:
        splits = confined(splits, plugins.columns(), recipe.data)
    if hold_out:
        together = [column.name for column in plugins.columns() if column.keeps_together]
        splits = with_validation(splits, recipe.data.validation_fraction, seed, together)
    elif list(splits) == ["train"]:
        splits = {"test": splits["train"]}
    if not recipe.eval.test:
        splits = {name: rows for name, rows in splits.items() if name != "test"}
    splits = limited(splits, recipe.data.limit)
    measured = {name: rows for name, rows in splits.items() if name != "train"}
    return {**splits, **limited(measured, recipe.eval.max_samples, "eval.max_samples")}


def open_model(
    plugins: Plugins, objects: tuple[Any, Any], seed: int, begun: Mapping[str, Any] = MappingProxyType({})
) -> tuple[Any, Any]:
    """The model to train, adapted as the recipe says, and its processor.

    Args:
        objects: a model and a processor given in code, instead of what the recipe names.
        begun: the base model that a run began with which goes on.
    """
    model, processor = objects
    set_seed(seed)
    if model is None and plugins.recipe.model.name == GIVEN_IN_CODE:
        raise ModelError("the run's model was given in code", hint="give it again, in code: model=...")
    if model is None:
        loaded, own_processor = _at_commit(plugins, begun).model()()
        model, processor = loaded, processor if processor is not None else own_processor
    else:
        keep_unpacked(model)
    if any(one is not None for one in objects):
        plugins.given(model, processor)
    return adapted(plugins, model), processor


def _at_commit(plugins: Plugins, begun: Mapping[str, Any]) -> Plugins:
    """The plugins, for the base model of a run that was begun as it was then."""
    recipe = plugins.recipe
    revision = as_begun(recipe.model, begun)
    if revision == recipe.model.revision:
        return plugins
    return plugins.with_recipe(recipe.override(model={"revision": revision}))


def adapted(plugins: Plugins, model: Any) -> Any:
    """The model with the recipe's adapter, where there is one and the model has none yet."""
    adapter = plugins.recipe.adapter
    if adapter is None or getattr(model, "peft_config", None):
        return model
    own = plugins.adapt()
    if own is None:
        return adapt(model, adapter)
    return expected(own(model), nn.Module, "toolkit_adapt", "the adapted model, a torch.nn.Module")


def open_trained(plugins: Plugins, files: RunFolder, *, full_precision: bool = False) -> tuple[Any, Any]:
    """The model that a run saved, for use, and its processor.

    Args:
        full_precision: with an adapter, not on a quantized base.
    """
    if not files.has_adapter:
        return open_saved(plugins, files.model)
    from peft import PeftModel

    if full_precision:
        plugins = plugins.with_recipe(plugins.recipe.override(model={"quantization": None}))
    model, processor = _at_commit(plugins, files.read_environment().get("base_model", {})).model()()
    if isinstance(model, PeftModel):  # of an adapter that was trained further, whose newer weights come now
        model = model.unload()
    try:
        check_adapter(str(files.model), ModelSpec(name=str(files.model)))
        return load_adapter(model, files.model).eval(), processor
    except (UserWarning, ValueError, SafetensorError, ModelError) as error:
        raise damaged(files) from error


def refuse_damaged(files: RunFolder) -> None:
    """Raise `CheckpointError` where the model that a run saved lacks weights, by the look of their files."""
    if not is_whole(files.model, *([ADAPTER_WEIGHTS] if files.has_adapter else [])):
        raise damaged(files)


def damaged(files: RunFolder) -> CheckpointError:
    return CheckpointError(
        f"the {'adapter' if files.has_adapter else 'model'} in {files.model} is damaged or incomplete",
        hint=f"bring it back from a copy, or train again: toolkit run {files.recipe}",
    )


def open_saved(plugins: Plugins, folder: Path) -> tuple[Any, Any]:
    """The full weights in a folder, in place of the recipe's model, and their processor."""
    saved = {"name": str(folder), "revision": None, "quantization": None, "from_config": None}
    model, processor = plugins.with_recipe(plugins.recipe.override(model=saved)).model()()
    return model.eval(), processor
