"""Fine-tune transformers of any modality with one command, one recipe and one trainer."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolkit.adapters import LoraConfig as LoraConfig
    from toolkit.adapters import adapt as adapt
    from toolkit.arguments import TrainingArguments as TrainingArguments
    from toolkit.cache import RowCache as RowCache
    from toolkit.errors import CheckpointError as CheckpointError
    from toolkit.errors import DataError as DataError
    from toolkit.errors import ModelError as ModelError
    from toolkit.errors import PluginError as PluginError
    from toolkit.errors import RecipeError as RecipeError
    from toolkit.errors import ToolkitError as ToolkitError
    from toolkit.generation import generation_settings as generation_settings
    from toolkit.hookspecs import hookimpl as hookimpl
    from toolkit.inside import in_place_of_forward as in_place_of_forward
    from toolkit.inside import unwrapped as unwrapped
    from toolkit.metrics import EvaluateMetric as EvaluateMetric
    from toolkit.models import load_model as load_model
    from toolkit.models import load_processor as load_processor
    from toolkit.recipe import Recipe as Recipe
    from toolkit.runs import Run as Run
    from toolkit.runs import load_run as load_run
    from toolkit.runs import run as run
    from toolkit.searching import search as search
    from toolkit.trainer import Trainer as Trainer
    from toolkit.types import Batch as Batch
    from toolkit.types import Column as Column
    from toolkit.types import Loss as Loss
    from toolkit.types import Metric as Metric
    from toolkit.types import Row as Row
    from toolkit.types import Scored as Scored
    from toolkit.types import Stage as Stage

_HOME = {
    "LoraConfig": "toolkit.adapters",
    "adapt": "toolkit.adapters",
    "TrainingArguments": "toolkit.arguments",
    "RowCache": "toolkit.cache",
    "CheckpointError": "toolkit.errors",
    "DataError": "toolkit.errors",
    "ModelError": "toolkit.errors",
    "PluginError": "toolkit.errors",
    "RecipeError": "toolkit.errors",
    "ToolkitError": "toolkit.errors",
    "generation_settings": "toolkit.generation",
    "hookimpl": "toolkit.hookspecs",
    "in_place_of_forward": "toolkit.inside",
    "unwrapped": "toolkit.inside",
    "EvaluateMetric": "toolkit.metrics",
    "load_model": "toolkit.models",
    "load_processor": "toolkit.models",
    "Recipe": "toolkit.recipe",
    "Run": "toolkit.runs",
    "load_run": "toolkit.runs",
    "run": "toolkit.runs",
    "search": "toolkit.searching",
    "Trainer": "toolkit.trainer",
    "Batch": "toolkit.types",
    "Column": "toolkit.types",
    "Loss": "toolkit.types",
    "Metric": "toolkit.types",
    "Row": "toolkit.types",
    "Scored": "toolkit.types",
    "Stage": "toolkit.types",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'toolkit' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
