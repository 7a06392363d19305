"""Which device and which arithmetic a run uses, and how much memory it took."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import torch

from datasets.parallel import mallopt
from metrics.processor import survives

from ..config import ConfigError, TrainConfig
from ..networks.progressive import feature_maps
from .ranks import ALONE, Ranks


def choose_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device of this name; of several processes on a machine each takes a GPU of its own.

    Raises:
        ConfigError: it is not there, or not one for each process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.count > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"--device: each process takes a GPU of its own; give cuda, not {name}")
        if ranks.local >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ConfigError(f"--device: {count} GPUs for more processes; give torchrun --nproc-per-node {count}")
        name = f"cuda:{ranks.local}"
        torch.cuda.set_device(name)
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
            raise RuntimeError("choose auto, cpu, cuda or cuda:N")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def compute_deterministically() -> None:
    """Have GPUs give the same bits each time, more slowly: no choice of kernels by trial, no sums in order of arrival.

    Before the first use of the GPU. PyTorch warns of an operation that has no such form. CPUs always compute so.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def device_name(device: torch.device) -> str:
    """As in "NVIDIA H200" or "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads"


BF16_TRIAL = """
import torch
x = torch.ones(256, 256, dtype=torch.bfloat16, requires_grad=True)
y = torch.ones(4, 32, 8, 8, dtype=torch.bfloat16, requires_grad=True)
((x @ x).sum() + torch.conv2d(y, torch.ones(32, 32, 3, 3, dtype=torch.bfloat16)).sum()).backward()
"""


WORTH_A_TRIAL = 32  # feature maps; with fewer it is other things than convolutions that take the time
FASTER_IN_BF16 = """
import time, torch

def seconds(dtype):
    x = torch.ones(8, {maps}, 32, 32, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight, times = torch.ones({maps}, {maps}, 3, 3, dtype=dtype, requires_grad=True), []
    for _ in range(8):
        start = time.perf_counter()
        torch.conv2d(x, weight, padding=1).backward(x.detach())
        times.append(time.perf_counter() - start)
    return min(times)

raise SystemExit(int(2 * seconds(torch.bfloat16) > seconds(torch.float32)))
"""


def choose_precision(config: TrainConfig, device: torch.device, latest: Path | None = None) -> str:
    """ "fp32" or "bf16". auto: bf16 on GPUs that compute in it, and on CPUs whose convolutions it makes twice as fast.

    A CPU is tried out in another process, on the run's widest layers, unless even these are narrow. A run keeps what
    was chosen at its start.

    latest: the checkpoint of the run that goes on, if one does.

    Raises:
        ConfigError: bf16 asked for, or begun in, on a CPU that cannot compute in it.
    """
    if config.precision == "bf16" and device.type == "cpu" and not survives(BF16_TRIAL):
        instead = f" in a new run from this one: --precision fp32 --out ANOTHER --resume {latest}" if latest else ""
        raise ConfigError(f"--precision: this machine's cpu cannot compute in bf16; use fp32{instead}")
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        maps = feature_maps(1, config.fmap_base, config.fmap_decay, config.fmap_max)
        faster = maps >= WORTH_A_TRIAL and survives(FASTER_IN_BF16.format(maps=maps))
    return "bf16" if faster else "fp32"


def keep_freed_memory() -> None:
    """Have Linux keep the memory that tensors on a CPU give back, in huge pages, instead of taking it from the process.

    Each step would ask for it anew and fill it with zeros: a tenth of its time. Before the first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for torch's large tensors
    mallopt(mmap_max=0, trim_threshold=2**31 - 1)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's memory where there is one, else of the process; 0 on Windows, which does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    if (status := Path("/proc/self/status")).exists():  # getrusage counts the process that started this one, too
        return next(int(line.split()[1]) * 1024 for line in status.open() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
