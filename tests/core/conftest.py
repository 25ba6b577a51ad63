from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Install
from tests.core import tiny
from toolkit import Recipe


@pytest.fixture
def tiny_recipe(install: Install) -> Recipe:
    """A recipe for the tiny plugin, installed for this test."""
    install("toolkit-tiny", plugins={"tiny": "toolkit_tiny"}, modules={"toolkit_tiny": tiny.PLUGIN})
    train: dict[str, Any] = {
        "learning_rate": 1e-2,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 4,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 4,
        "use_cpu": True,
        "seed": 3,
    }
    return Recipe(name="tiny", plugins=["tiny"], model="tiny", train=train)
