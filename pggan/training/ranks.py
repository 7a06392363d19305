"""The processes of a run (torchrun's ranks): who holds which samples of a batch, and their gradients summed.

Random numbers, the order of the data and the losses are those of the global batch, of which each process holds a share.
A share is made of whole minibatch-stddev groups, so that any number of processes, and any `--micro-batch`, compute the
same update up to the order of summation.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .signals import TrainingStopped


@dataclass(frozen=True)
class Share:
    """Some of the minibatch-stddev groups of a batch; samples i, i + size/group, i + 2 size/group, ... form a group.

    Args:
        size: samples in the batch. group: samples in a group. first, last: the groups held, first <= number < last.
        weight: what a mean over the share counts for in the mean over the global batch.
    """

    size: int
    group: int
    first: int
    last: int
    weight: float = 1.0

    def __len__(self) -> int:
        """Samples in the share."""
        return self.group * (self.last - self.first)

    def of(self, batch: Tensor) -> Tensor:
        """The share's samples [len, ...] out of [size, ...], in the order that makes them a batch of its groups."""
        return batch.unflatten(0, (self.group, -1))[:, self.first : self.last].flatten(0, 1)

    def split(self, at_once: int | None) -> list[Share]:
        """The share in parts of at most so many samples, but at least a group."""
        step = max((at_once or len(self)) // self.group, 1)
        return [self._part(first, min(first + step, self.last)) for first in range(self.first, self.last, step)]

    def _part(self, first: int, last: int) -> Share:
        weight = self.weight * (last - first) / (self.last - self.first)
        return Share(self.size, self.group, first, last, weight)

    def within(self, whole: Share) -> Share:
        """The same samples, out of those of a larger share that holds them."""
        return Share(len(whole), self.group, self.first - whole.first, self.last - whole.first, self.weight)


class ProcessLost(TrainingStopped):
    """Another process of the run has ended, or cannot be reached."""


@dataclass(frozen=True)
class Ranks:
    """This process, number `rank` of `count`, and `local` of those on its machine.

    With one process nothing is sent and torch.distributed is not used. Else every process must call the same methods in
    the same order; gradients go by the fast way (NCCL between GPUs) and fail where a process does not answer for
    `PATIENCE`; all else goes by Gloo and waits as long as the others live, since the first one may have a cache to
    build or a checkpoint to write.

    Raises:
        ProcessLost: from any of the methods that send.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    slow: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def share(self, size: int, group: int) -> Share:
        """What this process holds of a batch of so many samples in groups of so many; a smaller batch is one group.

        Where there are fewer groups than processes, some compute the first group with weight 0: they would wait else.
        """
        group = min(group, size)
        groups = size // group
        first, last = self.rank * groups // self.count, (self.rank + 1) * groups // self.count
        return Share(size, group, first, last, (last - first) / groups) if first < last else Share(size, group, 0, 1, 0)

    def add_up(self, tensors: list[Tensor]) -> None:
        """Turn each tensor into the sum of all processes', in place, in one message; the bits are the same in all."""
        if self.count == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        with answering():
            dist.all_reduce(flat)
        sums = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(sums, tensors, strict=True)])

    def largest(self, number: int) -> int:
        """Of all processes' numbers."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number])
        with answering():
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.slow)
        return int(numbers)

    def from_first(self, value: Any) -> Any:
        """The first process' value, plain data or tensors on the CPU, in all of them."""
        if self.count == 1:
            return value
        held = [value]
        with answering():
            dist.broadcast_object_list(held, src=0, group=self.slow)
        return held[0]

    def to_first(self, value: Any) -> list[Any]:
        """All processes' values, in order, in the first one; [] in the others."""
        if self.count == 1:
            return [value]
        held = [None] * self.count if self.first else None
        with answering():
            dist.gather_object(value, held, dst=0, group=self.slow)
        return held or []

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process of each machine goes first, what it left behind spares the others the work."""
        if self.local:
            self.largest(0)
        yield
        if not self.local:
            self.largest(0)


ALONE = Ranks()
PATIENCE = timedelta(minutes=10)
COURTESY = 3  # seconds


def place() -> tuple[int, int, int]:
    """rank, count and local rank, as torchrun tells them."""
    rank, count, local = (int(os.environ.get(name) or 0) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return (rank, count, local) if count > 1 and "RANK" in os.environ else (0, 1, 0)


@contextmanager
def first_speaks() -> Iterator[None]:
    """What other processes than the first print is dropped; what ends one of them, too, if the first says it as well.

    Where the first process ends, torchrun ends the others before they have waited out their `COURTESY`.
    """
    if place()[0] == 0:
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        time.sleep(COURTESY)
        raise


@contextmanager
def ends_at_once() -> Iterator[None]:
    """One of several processes ends without taking the interpreter apart first.

    A thread of torch.distributed that meanwhile hears of another process' end would abort it with SIGABRT.
    """
    try:
        yield
    except SystemExit as end:
        if place()[1] == 1 or isinstance(end.code, str):
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun (or another launcher with its environment variables) started, connected; else ALONE.

    Raises:
        ProcessLost: not all of them came.
    """
    rank, count, local = place()
    if count == 1:
        yield ALONE
        return
    with answering():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
        slow = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(slow, dist.ProcessGroup), "a group of all processes"
    yield Ranks(rank, count, local, slow)
    dist.destroy_process_group()


@contextmanager
def answering() -> Iterator[None]:
    """Says in a sentence that somebody does not answer."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ProcessLost(f"another process of this run has ended or cannot be reached ({reason})") from None
