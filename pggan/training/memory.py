"""Recognize out-of-memory errors, and suggest options that need less memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote

import torch

from ..config import ConfigError, PerStage, TrainConfig, format_value
from .growth import Phase
from .ranks import Ranks


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, on a GPU or in main memory.

    PyTorch's CPU allocator raises a plain RuntimeError, which only its text identifies.
    """
    of_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or of_cpu


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Report networks too large to build as a ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "--fmap-max: out of memory while building networks of this size; use a lower --fmap-max or --fmap-base"
        ) from None


def suggest_less_memory(config: TrainConfig, phase: Phase, ranks: Ranks, latest: Path) -> str:
    """Suggest options that need less memory in this phase, if possible one that leaves the result unchanged."""
    share = ranks.share(phase.batch_size, config.mbstd_group)
    at_once = len(share.micro_batches(phase.micro_batch)[0])
    smaller = at_once // 2 // share.group * share.group
    if smaller:
        table = format_with_stage(config.micro_batch or {4: max(config.batch_size.values())}, phase.resolution, smaller)
        return f" with --micro-batch {table}, which needs less memory and gives the same result"
    table = format_with_stage(config.batch_size, phase.resolution, max(phase.batch_size // 2, 1))
    resume = f" --resume {quote(str(latest))}" if latest.exists() else ""
    return (
        f"; a micro-batch cannot be smaller than a minibatch-stddev group of {share.group}: start a new run with "
        f"--batch-size {table} --out ANOTHER{resume}"
    )


def format_with_stage(table: PerStage[int], resolution: int, value: int) -> str:
    """Return a per-stage table as option text, with `value` from a resolution up."""
    return format_value({r: v for r, v in table.items() if r < resolution} | {resolution: value})
