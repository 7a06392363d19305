"""What stops a run, without a run."""

import signal

import pytest

from pggan.training.signals import ECHO, StopRequested, StopSignals


def test_sigterm_from_several_places_stops_once_and_another_one_later_ends_at_once():
    with StopSignals() as signals:
        signals.check()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequested, match="SIGTERM"):
            signals.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.since -= ECHO
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
