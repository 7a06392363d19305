"""Handle SIGINT and SIGTERM: training saves a checkpoint and stops."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .tracking import log

REPEAT_WINDOW = 10  # seconds; a SIGTERM this soon after a signal is a copy of it (see StopSignals)


class TrainingStopped(RuntimeError):
    """Training ended early; carries one sentence with the reason and the remedy."""


def suggest_resuming(latest: Path) -> str:
    """Suggest how to continue a run that ended early, whose newest checkpoint is `latest` if it exists."""
    after = f"resume from {latest}" if latest.exists() else "start over (nothing was saved yet)"
    return f"run the same command again to {after}"


class StopRequested(Exception):
    """SIGINT or SIGTERM was received; carries the signal's name."""


class StopSignals:
    """Raises StopRequested at the next `check` after SIGINT or SIGTERM; a second signal exits immediately.

    A SIGTERM within REPEAT_WINDOW is not counted as a second one: schedulers send it to every process, and torchrun
    forwards its own to the processes it started. Python handles signals in the main thread only; in any other thread
    they are left to the calling program.

    Args:
        agree: maps this process's signal (0: none) to the signal on which all processes of the run stop.
    """

    def __init__(self, agree: Callable[[int], int] = lambda number: number) -> None:
        self.received, self.received_at, self.agree = 0, 0.0, agree

    def __enter__(self) -> StopSignals:
        ours = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
        self.old_handlers = {number: signal.signal(number, self.handle) for number in ours}
        return self

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.old_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def handle(self, number: int, frame: Any) -> None:
        """Record the first signal; raise KeyboardInterrupt on a second one."""
        if self.received:
            if number == signal.SIGTERM and time.monotonic() - self.received_at < REPEAT_WINDOW:
                return
            raise KeyboardInterrupt
        self.received, self.received_at = number, time.monotonic()
        name = signal.Signals(number).name
        log(f"{name} received: saving a checkpoint, then exiting (send it again to exit immediately)")

    def check(self) -> None:
        """Raise StopRequested if a signal was received by any process of the run."""
        if number := self.agree(self.received):
            raise StopRequested(signal.Signals(number).name)
