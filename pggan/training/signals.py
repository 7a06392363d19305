"""SIGINT and SIGTERM: save, then stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from .tracking import log

REPEAT_WINDOW = 10  # seconds


class TrainingStopped(RuntimeError):
    """Training ended before its time, in one sentence."""


class StopRequested(Exception):
    """SIGINT or SIGTERM came; carries the signal's name."""


class StopSignals:
    """Turns the first SIGINT or SIGTERM into StopRequested at the next `check`; the second ends the process.

    SIGTERM soon after it is no second one: schedulers send it to every process, and torchrun passes it on to its own.

    Python handles signals in the main thread only: in another one, signals are left to the program.

    agree: from this process' signal, 0 for none, to the one that all processes of the run stop for.
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
        if self.received:
            if number == signal.SIGTERM and time.monotonic() - self.received_at < REPEAT_WINDOW:
                return
            raise KeyboardInterrupt
        self.received, self.received_at = number, time.monotonic()
        name = signal.Signals(number).name
        log(f"{name} received: saving a checkpoint, then exiting (send it again to exit immediately)")

    def check(self) -> None:
        if number := self.agree(self.received):
            raise StopRequested(signal.Signals(number).name)
