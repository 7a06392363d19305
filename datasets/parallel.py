"""Map a function over items in several processes, yielding results as they finish."""

from __future__ import annotations

import ctypes
import math
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
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .base import DataError

MALLOPT = {"trim_threshold": -1, "mmap_threshold": -3, "mmap_max": -4}  # parameter numbers, from glibc's malloc.h
# Seconds until the first result, our choice: far more than importing NumPy and Pillow takes in a spawned process, so
# that only a pool that cannot work at all reaches it.
START_SECONDS = 60
# Tasks in the queue per worker, our choice: enough that workers do not idle while the caller handles results, and few
# enough that `items` may be long and lazy.
QUEUED_PER_WORKER = 16
# Malloc limits in workers, in bytes, so that freed blocks are reused: the system zeroes the blocks that it hands out.
# 32 MiB is the largest threshold that glibc accepts, 8 megapixels at Pillow's 4 bytes; 128 MiB is our choice.
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 << 20, 128 << 20

_work: Callable[[Any], Any]  # the function of this worker process, set by `init_worker`


def count_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the number of CPU cores that this process may use, by its affinity and its container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min(cores, math.ceil(read_cpu_quota(cgroup))), 1)


def read_cpu_quota(cgroup: Path, membership: Path = Path("/proc/self/cgroup")) -> float:
    """Return the CPU quota of this process in cores, or the largest integer if there is none.

    It is the smallest quota of the process's control group and of those that contain it: a container's group is the
    topmost that is visible inside, while systemd and Slurm create groups below it. Version 2 has "QUOTA PERIOD" in
    cpu.max, version 1 two files; a quota of "max" or -1 is none.

    Args:
        cgroup: where Linux mounts control groups. membership: lists the process's groups, "NUMBER:CONTROLLERS:PATH".
    """
    versions = [
        (cgroup, "", ("cpu.max",)),
        (cgroup / "cpu", "cpu", ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    ]
    lines = membership.read_text().splitlines() if membership.exists() else []
    groups = {c: path.strip("/") for _, names, path in (line.split(":", 2) for line in lines) for c in names.split(",")}
    quotas: list[float] = [sys.maxsize]
    for top, controller, files in versions:
        own = Path(groups.get(controller, ""))
        for folder in (own, *own.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):  # another version, or "max"
                quota, period = " ".join((top / folder / file).read_text() for file in files).split()
                quotas += [float(quota) / float(period)] if float(quota) > 0 else []
    return min(quotas)


def map_parallel(work: Callable[[Any], Any], items: Iterable[Any], workers: int) -> Iterator[Any]:
    """Yield `work(item)` for every item, in the order in which they finish.

    With one worker, or if no process can be started, this process does the work itself. Ending the iteration early
    terminates the workers.

    Args:
        work: function of one item; pickled on systems without fork.
        workers: number of processes.

    Raises:
        DataError: a worker was killed, most likely because memory ran out.
    """
    others = set(multiprocessing.active_children())  # not this pool's, such as a DataLoader's
    pool, workers = start_pool(work, workers)
    if pool is None:
        yield from map(work, items)
        return
    pending: set[Future] = set()
    try:
        for item in items:
            if len(pending) >= QUEUED_PER_WORKER * workers:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            with defer_interrupts():
                pending.add(pool.submit(call_work, item))
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
        pool.shutdown()
    except BrokenProcessPool:
        raise DataError(
            "a worker process was killed, most likely because memory ran out; free some memory, or build the cache in "
            "one process: python -m pggan.datasets build DATA --workers 1, with this command's other data options"
        ) from None
    finally:  # after an error or interrupt, running tasks are abandoned: the caller never receives their results
        end_pool(pool, others)


def start_pool(work: Callable[[Any], Any], workers: int) -> tuple[ProcessPoolExecutor | None, int]:
    """Start a pool of processes, halving their number until it starts; return the pool and the number, or None and 1.

    A pool needs semaphores in /dev/shm, processes, a thread and open files. Containers and clusters may lack or limit
    any of these; if so, the first task fails, and a warning is printed.
    """
    # fork on Linux, as in torch's DataLoader: workers start in milliseconds, and `work` is not pickled
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    others, wanted, reason = set(multiprocessing.active_children()), workers, None
    while workers > 1:
        pool = None
        try:
            pool = ProcessPoolExecutor(workers, context, initializer=init_worker, initargs=(work, os.getpid()))
            with defer_interrupts():
                pool.submit(os.getpid).result(START_SECONDS)  # the first task starts the processes and threads
            break
        except (OSError, ImportError, RuntimeError, TimeoutError) as error:
            # in this order: a limit of processes or files; no semaphores; no thread, or a worker died; no answer
            reason = getattr(error, "strerror", None) or str(error)
            if pool:
                end_pool(pool, others)
            workers //= 2
        except KeyboardInterrupt:  # the exit of Python would wait for the workers, and they for tasks
            if pool:
                end_pool(pool, others)
            raise
    else:
        pool, workers = None, 1
    if reason:
        count = f"{workers} processes instead of {wanted}" if workers > 1 else "one process"
        check = "check /dev/shm (df -h /dev/shm) and the limits for processes and open files (ulimit -a)"
        tqdm.write(f"warning: decoding in {count}: more could not be started ({reason}); {check}", file=sys.stderr)
    return pool, workers


def end_pool(pool: ProcessPoolExecutor, others: set[Any]) -> None:
    """Terminate a pool's processes, which are all children except `others`, without waiting for their tasks."""
    for worker in set(multiprocessing.active_children()) - others:
        worker.terminate()
    pool.shutdown(wait=False, cancel_futures=True)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block: during a fork, Python's fork hooks would swallow KeyboardInterrupt."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def init_worker(work: Callable[[Any], Any], parent: int) -> None:
    """Prepare a worker process before its first task: its function, malloc, signals and end."""
    global _work
    _work = work
    mallopt(mmap_threshold=MMAP_THRESHOLD, trim_threshold=TRIM_THRESHOLD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with suppress(RuntimeError):  # the system's limit of threads is reached
        threading.Thread(target=exit_with_parent, args=(parent,), daemon=True).start()


def exit_with_parent(parent: int) -> None:
    """Exit this process when its parent has ended: a killed parent cannot terminate its workers."""
    while os.getppid() == parent:
        time.sleep(0.5)  # our choice: a negligible load, and orphans end before a user restarts the command
    os._exit(1)


def call_work(item: Any) -> Any:
    """Return the worker's function of one item."""
    return _work(item)


def mallopt(**settings: int) -> None:
    """Set parameters of glibc's malloc (see mallopt(3)), by names in MALLOPT; do nothing on systems without it."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for name, value in settings.items():
            libc.mallopt(MALLOPT[name], value)
