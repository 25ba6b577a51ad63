"""A plugin that keeps all laws passes them, and each broken one fails the law that it breaks, and no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.core.testing.conftest import PLUGINS, SOUND
from toolkit import Recipe
from toolkit.testing import check_plugin, examine
from toolkit.testing.laws import LAWS

BROKEN = sorted(path.stem for path in PLUGINS.glob("*.py") if path.stem != SOUND)
Sample = Callable[[str], Recipe]


def test_a_sound_plugin_keeps_every_law(sample_of: Sample) -> None:
    report = check_plugin("broken", sample_of(SOUND))
    assert {one.status for one in report.results} == {"passed"}, str(report)
    assert [one.law for one in report.results] == [law.name for law in LAWS]


@pytest.mark.parametrize("stem", BROKEN)
def test_a_broken_plugin_fails_its_law_alone(sample_of: Sample, stem: str) -> None:
    report = examine("broken", sample_of(stem))
    assert [one.law for one in report.failed] == [stem.partition("__")[0]], str(report)
    [failed] = report.failed
    assert failed.finding
    assert failed.hint
    with_others = [one for one in report.results if one.status == "not run"]
    assert all(failed.law in (one.finding or "") or "needs" in (one.finding or "") for one in with_others)


def test_each_law_can_be_broken() -> None:
    assert {stem.partition("__")[0] for stem in BROKEN} == {law.name for law in LAWS}


def test_each_law_states_itself_in_a_sentence() -> None:
    assert all(law.sentence.endswith(".") for law in LAWS)
    assert len({law.sentence for law in LAWS}) == len(LAWS)


def test_what_a_law_needs_comes_before_it() -> None:
    names = [law.name for law in LAWS]
    assert all(names.index(need) < names.index(law.name) for law in LAWS for need in law.needs)
