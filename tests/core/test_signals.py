"""What arrives at awkward moments."""

from __future__ import annotations

import signal

import pytest

from toolkit import ranks
from toolkit.errors import Interrupted
from toolkit.signals import Signals


def test_a_signal_that_arrives_while_the_last_look_ends_is_seen_at_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    signals = Signals()
    signals.poll()

    def highest(*numbers: int) -> list[int]:
        signals._note(signal.SIGTERM, None)
        signals._note(signal.SIGUSR1, None)
        return [*numbers]

    with monkeypatch.context() as patch:
        patch.setattr(ranks, "highest", highest)
        signals.poll()
    with pytest.raises(Interrupted):
        signals.poll()
    assert signals._save
