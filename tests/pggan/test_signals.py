"""Signals that stop a run, without a run."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from pggan.training.signals import REPEAT_WINDOW, StopRequested, StopSignals


def test_simultaneous_sigterms_stop_once_and_a_later_one_exits_immediately():
    with StopSignals() as signals:
        signals.check()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(StopRequested, match="SIGTERM"):
            signals.check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signals.received_at -= REPEAT_WINDOW
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_signal_handlers_are_unchanged_in_other_threads():
    def enter():
        with StopSignals() as signals:
            return signal.getsignal(signal.SIGTERM), signals.check()

    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(enter).result() == (before, None)
