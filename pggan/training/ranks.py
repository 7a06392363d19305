"""Data-parallel training: which samples of the global batch each rank holds, and communication between ranks.

Random numbers, data order and losses belong to the global batch; each rank holds a share of it. A share consists of
whole minibatch-stddev groups, so that any number of ranks, and any `--micro-batch`, computes the same update up to
floating-point summation order.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .signals import TrainingStopped


@dataclass(frozen=True)
class Share:
    """Some of a batch's minibatch-stddev groups; samples i, i + N/group, i + 2 N/group, ... form group i.

    Args:
        global_size: samples in the global batch. group: samples per group. first_group, end_group: the groups held.
        weight: the share's fraction of the global batch, by which a mean over the share is multiplied.
    """

    global_size: int
    group: int
    first_group: int
    end_group: int
    weight: float = 1.0

    def __len__(self) -> int:
        """Return the number of samples in the share."""
        return self.group * (self.end_group - self.first_group)

    def select(self, batch: Tensor) -> Tensor:
        """Return the share's samples [len, ...] of a batch [global_size, ...], ordered as a batch of whole groups."""
        return batch.unflatten(0, (self.group, -1))[:, self.first_group : self.end_group].flatten(0, 1)

    def micro_batches(self, max_samples: int | None) -> list[Share]:
        """Split the share into parts of at most `max_samples` samples, but at least one group."""
        step = max((max_samples or len(self)) // self.group, 1)
        return [
            self._part(first, min(first + step, self.end_group))
            for first in range(self.first_group, self.end_group, step)
        ]

    def _part(self, first: int, last: int) -> Share:
        weight = self.weight * (last - first) / (self.end_group - self.first_group)
        return Share(self.global_size, self.group, first, last, weight)

    def relative_to(self, whole: Share) -> Share:
        """Return the same samples, numbered within a larger share that holds them."""
        return Share(
            len(whole),
            self.group,
            self.first_group - whole.first_group,
            self.end_group - whole.first_group,
            self.weight,
        )


class ProcessLost(TrainingStopped):
    """Another rank has exited or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """This process's place in the run: `rank` of `world_size`, and `local_rank` among those on its machine.

    With one process, torch.distributed is not used. With several, every rank must call the same methods in the same
    order. Gradients use the fast backend (NCCL between GPUs), which fails if a rank is silent for `GRADIENT_TIMEOUT`.
    Everything else uses Gloo and waits as long as the others are alive, since rank 0 may be building a cache or writing
    a checkpoint. A thread exits the process soon after the loss of another one, wherever it waits (`exit_if_lost`).

    Raises:
        ProcessLost: from any method that communicates over Gloo.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    gloo_group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def share(self, size: int, group: int) -> Share:
        """Return this rank's share of a batch of `size` samples in groups of `group`; a smaller batch is one group.

        With fewer groups than ranks, the idle ranks compute the first group with weight 0, so that all stay in step.
        """
        group = min(group, size)
        groups = size // group
        first, last = self.rank * groups // self.world_size, (self.rank + 1) * groups // self.world_size
        return Share(size, group, first, last, (last - first) / groups) if first < last else Share(size, group, 0, 1, 0)

    def all_reduce(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in place, in one message; every rank gets the same bits."""
        if self.world_size == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with report_lost_process():
            dist.all_reduce(flat)
        sums = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(sums, tensors, strict=True)])

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of all ranks' numbers."""
        if self.world_size == 1:
            return number
        numbers = torch.tensor([number])
        with report_lost_process():
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.gloo_group)
        return int(numbers)

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value, plain data or CPU tensors, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        with report_lost_process():
            dist.broadcast_object_list(values, src=0, group=self.gloo_group)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return all ranks' values, in order, on rank 0; [] on the others."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size if self.is_first else None
        with report_lost_process():
            dist.gather_object(value, values, dst=0, group=self.gloo_group)
        return values or []

    @contextmanager
    def rank_by_rank(self) -> Iterator[None]:
        """Let one rank of each machine go first; the others then find its work (a cache, a download) done."""
        if self.local_rank:
            self.all_reduce_max(0)
        yield
        if not self.local_rank:
            self.all_reduce_max(0)


SINGLE_PROCESS = Ranks()
GRADIENT_TIMEOUT = timedelta(minutes=10)  # torch's default for NCCL: longer than any step, evaluations included
LOST_GRACE = 20.0  # seconds for the main thread to report a lost process; torchrun kills after 30 (its default)
EXIT_DELAY = 3  # seconds for rank 0's message to reach the console before torchrun reports another rank's exit


def read_launcher_ranks() -> tuple[int, int, int]:
    """Return (rank, world size, local rank) from the environment variables that torchrun sets."""
    rank, count, local = (int(os.environ.get(name) or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return (rank, count, local) if count > 1 and "RANK" in os.environ else (0, 1, 0)


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Silence every rank but 0, and let rank 0 report an error before the others exit.

    When rank 0 exits, torchrun ends the others before `EXIT_DELAY` is over.
    """
    if read_launcher_ranks()[0] == 0:
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        time.sleep(EXIT_DELAY)
        raise


@contextmanager
def exit_without_teardown() -> Iterator[None]:
    """Exit one of several ranks without tearing down the interpreter.

    During teardown, a torch.distributed thread that notices another rank's exit would abort the process with SIGABRT.
    """
    try:
        yield
    except SystemExit as end:
        if read_launcher_ranks()[1] == 1 or isinstance(end.code, str):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@contextmanager
def connect_ranks() -> Iterator[Ranks]:
    """Connect the processes that torchrun or a similar launcher started; yield SINGLE_PROCESS without one.

    Raises:
        ProcessLost: not all of them connected.
    """
    rank, count, local = read_launcher_ranks()
    if count == 1:
        yield SINGLE_PROCESS
        return
    with report_lost_process():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=GRADIENT_TIMEOUT)
        slow, watched = (dist.new_group(backend="gloo", timeout=timedelta(days=30)) for _ in range(2))
    assert isinstance(slow, dist.ProcessGroup) and isinstance(watched, dist.ProcessGroup), "groups of all ranks"
    watcher = threading.Thread(target=exit_if_lost, args=(watched, (rank - 1) % count), daemon=True)
    watcher.start()
    yield Ranks(rank, count, local, slow)
    with suppress(RuntimeError):  # this rank's work is done, whatever has become of the next
        dist.send(torch.zeros(1), (rank + 1) % count, group=watched)
    watcher.join()
    dist.destroy_process_group()


def exit_if_lost(group: dist.ProcessGroup, previous: int) -> None:
    """Wait until the previous rank says that it is done; exit this process if it is lost instead.

    Gloo raises `ProcessLost` in the main thread. NCCL does not: the GPU waits for the lost rank, and the main thread
    for the GPU, in a call that neither an exception nor a signal handler can interrupt. As each rank that exits is lost
    to the next one, all of them exit. A machine that vanishes without closing its connections is noticed after
    `GRADIENT_TIMEOUT` only.
    """
    try:
        dist.recv(torch.zeros(1), previous, group=group)
    except RuntimeError:
        time.sleep(LOST_GRACE)
        print(
            "train.py: another process of this run has exited or cannot be reached; "
            "run the same command again to resume",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


@contextmanager
def report_lost_process() -> Iterator[None]:
    """Report a failed communication as `ProcessLost`, in one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ProcessLost(f"another process of this run has exited or cannot be reached ({reason})") from None
