"""Every installed plugin keeps the contract; those that come with the toolkit enjoy no privilege."""

from __future__ import annotations

import pytest

from toolkit.discovery import installed
from toolkit.testing import check_plugin


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(one.name for one in installed("plugin")))
def test_it_keeps_every_law(name: str) -> None:
    check_plugin(name)
