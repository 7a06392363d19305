"""Work spread over processes, with results as they come."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, TimeoutError, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import Any

from tqdm import tqdm

from .base import DataError

MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}  # numbers of mallopt(3)
START = 60  # seconds for the first answer, which takes milliseconds; spawned processes import NumPy and Pillow first

_work: Callable[[Any], Any]


def count_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_parallel(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """work(item) of every item, in any order; in this process where one worker is enough, or no other can be started.

    Raises:
        DataError: a worker was killed, most likely for want of memory.
    """
    others = set(multiprocessing.active_children())
    pool, workers = start_pool(work, workers)
    if pool is None:
        yield from map(work, items)
        return
    pending: set[Future] = set()
    try:
        for item in items:
            if len(pending) >= 16 * workers:  # enough to go on with while the caller writes to the disk
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            with defer_interrupts():
                pending.add(pool.submit(call_work, item))
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        pool.shutdown()
    except BrokenProcessPool:
        raise DataError("a worker was killed, most likely for want of memory; try fewer --workers") from None
    finally:  # where it broke off, nobody waits for what the workers do: what they write is not yet noted as done
        end_pool(pool, others)


def start_pool(work: Callable[[Any], Any], workers: int) -> tuple[ProcessPoolExecutor | None, int]:
    """Start as many of the workers as this machine allows; return their pool and number, or None and 1.

    A pool needs semaphores in /dev/shm, processes, a thread and open files. Containers and clusters may lack or limit
    any of them, which shows here, before any work is done: with half as many the limit may not be reached.
    """
    # fork where it is the custom (as torch's DataLoader does): a worker starts in milliseconds, nothing is pickled
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    others, wanted, reason = set(multiprocessing.active_children()), workers, None
    while workers > 1:
        pool = None
        try:
            pool = ProcessPoolExecutor(workers, context, initializer=init_worker, initargs=(work, os.getpid()))
            with defer_interrupts():
                pool.submit(os.getpid).result(START)  # the first task starts the processes and threads
            break
        except (OSError, ImportError, RuntimeError, TimeoutError) as error:  # no semaphores, no thread, none that works
            reason = getattr(error, "strerror", None) or str(error)
            if pool:
                end_pool(pool, others)
            workers //= 2
    else:
        pool, workers = None, 1
    if reason:
        count = f"{workers} processes instead of {wanted}" if workers > 1 else "one process"
        check = "check /dev/shm and the limits of processes and open files"
        tqdm.write(f"decoding in {count}: more could not be started ({reason}); {check}", file=sys.stderr)
    return pool, workers


def end_pool(pool: ProcessPoolExecutor, others: set[Any]) -> None:
    """End a pool's processes, all children but the others, without waiting for their work."""
    for worker in set(multiprocessing.active_children()) - others:
        worker.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Keep Ctrl-C waiting: while a process forks, Python's own hooks would swallow it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker(work: Callable[[Any], Any], parent: int) -> None:
    """What a process does before its first task."""
    global _work
    _work = work
    mallopt(mmap_threshold=32 << 20, trim_threshold=128 << 20)  # blocks below 8 megapixels stay with the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(RuntimeError):  # a limit of threads
        threading.Thread(target=exit_with_parent, args=(parent,), daemon=True).start()


def exit_with_parent(parent: int) -> None:
    """End when the parent does: a killed one cannot say so."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def call_work(item: Any) -> Any:
    """Carry out the worker's function on one item."""
    return _work(item)


def mallopt(**settings: int) -> None:
    """Have glibc's malloc, where that is in use, keep what is freed: the system gives it out anew filled with zeros."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, value in settings.items():
            libc.mallopt(MALLOPT[name], value)
