"""The processes of a run (torchrun's ranks): who holds which samples of a batch, and their gradients summed.

Random numbers, the order of the data and the losses are those of the global batch, of which each process holds a share.
A share is made of whole minibatch-stddev groups, so that any number of processes, and any `--micro-batch`, compute the
same update up to the order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


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
        return [
            self._part(first, min(first + step, self.last)) for first in range(self.first, self.last, step)
        ]  # fmt: skip

    def _part(self, first: int, last: int) -> Share:
        weight = self.weight * (last - first) / (self.last - self.first)
        return Share(self.size, self.group, first, last, weight)

    def within(self, whole: Share) -> Share:
        """The same samples, out of those of a larger share that holds them."""
        return Share(len(whole), self.group, self.first - whole.first, self.last - whole.first, self.weight)


@dataclass(frozen=True)
class Ranks:
    """This process, number `rank` of `count`."""

    rank: int = 0
    count: int = 1

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
        dist.all_reduce(flat)
        sums = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(tensors, [part.view_as(t) for part, t in zip(sums, tensors, strict=True)])


ALONE = Ranks()
