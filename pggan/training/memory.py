"""What to do when memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..config import ConfigError, PerStage, TrainConfig, format_value
from .growth import Phase
from .ranks import Ranks


def is_out_of_memory(error: BaseException) -> bool:
    """Of a GPU or of the machine: PyTorch's allocator on CPUs has no exception of its own."""
    of_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or of_cpu


@contextmanager
def room_for_networks() -> Iterator[None]:
    """Says that networks cannot even be built. Raises ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError("--fmap-max: out of memory for networks of this size; lower it, or --fmap-base") from None


def less_memory(config: TrainConfig, phase: Phase, ranks: Ranks, latest: Path) -> str:
    """Options that need less at this phase: first those that change nothing else."""
    share = ranks.share(phase.batch_size, config.mbstd_group)
    at_once = len(share.split(phase.micro_batch)[0])
    smaller = at_once // 2 // share.group * share.group
    if smaller:
        table = with_stage(config.micro_batch or {4: max(config.batch_size.values())}, phase.resolution, smaller)
        return f" with --micro-batch {table}, which needs less memory and gives the same result"
    table = with_stage(config.batch_size, phase.resolution, max(phase.batch_size // 2, 1))
    resume = f" --resume {latest}" if latest.exists() else ""
    return (
        f"; fewer than a minibatch-stddev group of {share.group} cannot be computed at once: give --batch-size {table} "
        f"with --out ANOTHER{resume}"
    )


def with_stage(table: PerStage[int], resolution: int, value: int) -> str:
    """A table with another number from a resolution on, as an option is written."""
    return format_value({r: v for r, v in table.items() if r < resolution} | {resolution: value})
