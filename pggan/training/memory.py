"""Find out how much memory is usable, and suggest options that need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

import torch

from pggan.metrics import is_out_of_memory

from ..config import ConfigError, PerStage, TrainConfig, format_value
from .growth import Phase
from .ranks import Ranks
from .signals import suggest_resuming


def read_usable_memory(device: torch.device, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the bytes of the device's memory that this process can still use; 0 if the system does not tell.

    On a GPU this includes what PyTorch keeps for reuse, in main memory the cached files, which Linux gives up first.

    Args:
        proc, cgroup: where Linux mounts processes and control groups.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    with suppress(OSError):
        lines = (proc / "meminfo").read_text().splitlines()
        of_machine = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        return max(min([*of_machine, *read_memory_limits(proc, cgroup)], default=0), 0)
    return 0


def read_memory_limits(proc: Path, cgroup: Path) -> Iterator[int]:
    """Yield the bytes left under each memory limit on this process: a container's, a SLURM job's, their parents'."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            root, limit_file, used_file, total = cgroup, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit_file, used_file, total = (
                cgroup / "memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_",  # with the groups below it
            )
        else:
            continue
        folder = root / path.strip("/")
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError, KeyError):  # the limit is "max", or outside what the container sees
                limit, used = (int((group / name).read_text()) for name in (limit_file, used_file))
                statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield limit - used + sum(int(statistics[f"{total}{name}_file"]) for name in ("active", "inactive"))
            if group == root:
                break


@contextmanager
def explain_out_of_memory() -> Iterator[None]:
    """Report networks too large to build as a ConfigError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            "out of memory while building networks of this size; use smaller ones (--fmap-max and --fmap-base, or "
            "--hidden and --d-hidden with --arch mlp or hybrid)"
        ) from None


def suggest_less_memory(config: TrainConfig, phase: Phase, ranks: Ranks, latest: Path) -> str:
    """Suggest how to continue with less memory in this phase, if possible with the same result.

    Args:
        latest: the run's newest checkpoint, if it exists.
    """
    share = ranks.share(phase.batch_size, config.mbstd_group)
    at_once = len(share.micro_batches(phase.micro_batch)[0])
    smaller = at_once // 2 // share.group * share.group
    if smaller and config.arch != "dcgan":
        table = format_with_stage(config.micro_batch or {4: max(config.batch_size.values())}, phase.resolution, smaller)
        return (
            f"{suggest_resuming(latest)} with --micro-batch {table}, which needs less memory and gives the same result"
        )
    table = format_with_stage(config.batch_size, phase.resolution, max(phase.batch_size // 2, 1))
    resume = f" --resume {quote(str(latest))}" if latest.exists() else ""
    why = f"a micro-batch cannot be smaller than a minibatch-stddev group of {share.group}"
    if config.arch == "dcgan":
        why = "--micro-batch does not work with --arch dcgan, whose batch norm needs the whole batch"
    return f"start a new run with --batch-size {table} --out ANOTHER{resume}; {why}"


def format_with_stage(table: PerStage[int], resolution: int, value: int) -> str:
    """Return a per-stage table as option text, with `value` from a resolution up."""
    return format_value({r: v for r, v in table.items() if r < resolution} | {resolution: value})
