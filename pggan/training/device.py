"""Which device and which arithmetic a run uses, and how much memory it took."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from datasets.cache_files import find_cache_folder, write_atomically
from datasets.parallel import mallopt
from metrics.cpu_trial import RESTRICTIONS, has_bf16_units, run_apart

from ..config import ConfigError, TrainConfig
from ..networks.progressive import count_feature_maps
from .ranks import SINGLE_PROCESS, Ranks


def choose_device(name: str, ranks: Ranks = SINGLE_PROCESS) -> torch.device:
    """The device of this name; of several processes on a machine each takes a GPU of its own.

    Raises:
        ConfigError: it is not there, or not one for each process.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.world_size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(f"--device: each process takes a GPU of its own; give cuda, not {name}")
        if ranks.local_rank >= torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise ConfigError(f"--device: {count} GPUs for more processes; give torchrun --nproc-per-node {count}")
        name = f"cuda:{ranks.local_rank}"
        torch.cuda.set_device(name)
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
            raise RuntimeError("choose auto, cpu, cuda or cuda:N")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: {name} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def enable_determinism() -> None:
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


MIN_TRIAL_MAPS = 32  # feature maps; narrower networks spend their time on other things than convolutions
# Measured on an AMD EPYC with AVX512_BF16: convolutions 2 times as fast make whole steps 1.5 (64 maps at 32x32) to 1.9
# times as fast (128 maps at 16x16). 1.5 leaves a gain, and is far enough from 2 for the choice not to vary by chance.
WORTH_BF16 = 1.5
CHOICE_SECONDS = 1.5  # limit on the trial; the two dtypes take 0.3 s together on two cores of 3 GHz
EMULATED = (
    "this CPU has no bf16 instructions: --precision bf16 is emulated, many times slower than fp32; use it only to "
    "continue such a run exactly"
)


def choose_precision(
    config: TrainConfig, device: torch.device, latest: Path | None = None, warn: Callable[[str], Any] = lambda _: None
) -> str:
    """Return "fp32" or "bf16". auto: bf16 on GPUs that compute in it, and on CPUs where it pays.

    It takes 2 s at most. A run keeps the precision chosen at its start.

    latest: the checkpoint of the run that is resumed, if any. warn: called with a sentence if bf16 is emulated.

    Raises:
        ConfigError: bf16 was asked for, or used so far, on a CPU that cannot compute in it.
    """
    if config.precision == "bf16" and device.type == "cpu":
        if not run_apart(compute_in_bf16):
            start = f"--precision fp32 --out ANOTHER --resume {quote(str(latest))}"
            instead = f" in a new run from this one: {start}" if latest else ""
            raise ConfigError(f"--precision: this machine's cpu cannot compute in bf16; use fp32{instead}")
        if not has_bf16_units():
            warn(EMULATED)
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    maps = count_feature_maps(1, config.fmap_base, config.fmap_decay, config.fmap_max)
    return "bf16" if maps >= MIN_TRIAL_MAPS and pays_in_bf16(maps) else "fp32"


def compute_in_bf16() -> bool:
    """Return True once a product and a convolution with their gradients have run in bf16."""
    x = torch.ones(256, 256, dtype=torch.bfloat16, requires_grad=True)
    images = torch.ones(4, 32, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    ((x @ x).sum() + torch.conv2d(images, torch.ones(32, 32, 3, 3, dtype=torch.bfloat16)).sum()).backward()
    return True


def pays_in_bf16(maps: int) -> bool:
    """Return whether convolutions of so many maps are WORTH_BF16 times as fast in bf16 as in float32 on this CPU.

    A CPU without bf16 instructions is not tried. The times measured are kept in the cache folder, for this CPU, torch
    and environment. Only Linux starts a trial fast enough; elsewhere the answer is no.
    """
    if sys.platform != "linux" or not has_bf16_units():
        return False
    key = {
        "cpu": cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "environment": {name: os.environ.get(name) for name in RESTRICTIONS},
        "maps": maps,
    }
    path = find_cache_folder() / "precision" / f"{sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    times = read_times(path)
    if times is None:
        times = run_apart(time_convolutions, maps, seconds=CHOICE_SECONDS)
        if times is None:  # it died, or something else kept the CPU busy: not to be remembered
            return False
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(key | {"seconds": times}) + "\n")
    return times[0] >= WORTH_BF16 * times[1]


def read_times(path: Path) -> tuple[float, float] | None:
    """Return what `time_convolutions` measured before; None if the file is missing or damaged."""
    try:
        fp32, bf16 = json.loads(path.read_text())["seconds"]
        return float(fp32), float(bf16)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def time_convolutions(maps: int) -> tuple[float, float]:
    """Return the seconds that a convolution and its gradients take in float32 and in bf16, the best of 3 each."""

    def measure(dtype: torch.dtype) -> float:
        x = torch.ones(4, maps, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
        weight, times = torch.ones(maps, maps, 3, 3, dtype=dtype), []
        geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        for _ in range(4):  # the first prepares kernels
            start = time.perf_counter()
            y = torch.convolution(x, weight, None, *geometry)
            torch.ops.aten.convolution_backward(y, x, weight, None, *geometry, [True, True, False])
            times.append(time.perf_counter() - start)
        return min(times[1:])

    maps = min(maps, 256)  # wider ones gain as much and take longer
    return measure(torch.float32), measure(torch.bfloat16)


def cpu_name() -> str:
    """Return the CPU's model and flags as Linux lists them, else what Python knows of it."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # ARM has no model name
        return "; ".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    return f"{platform.processor()} {platform.machine()}"


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 3.0) -> float:
    """Return the floating-point operations a second of a large matrix product, the best of some trials.

    Sizes double up to 2048 on CPUs and 8192 on GPUs, or as far as `seconds` allow: emulated bf16 may do 1 GFLOP/s.
    """
    largest, times = (2048, 1) if device.type == "cpu" else (8192, 20)
    size, best, end = 128, 0.0, time.perf_counter() + seconds
    for left in range(12, 0, -1):
        x, y, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        torch.mm(x, y, out=out)  # prepares kernels
        float(out[0, 0])  # waits for the device
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(x, y, out=out)
        float(out[0, 0])
        now = time.perf_counter()
        best = max(best, 2 * size**3 * times / (now - start))
        grown = min(2 * size, largest)
        if left == 1 or now + 2 * (now - start) * (grown / size) ** 3 > end:
            break
        size = grown
    return best


def keep_freed_memory() -> None:
    """Have Linux keep the memory that tensors on a CPU give back, in huge pages, instead of taking it from the process.

    Each step would ask for it anew and fill it with zeros: a tenth of its time. Before the first tensor.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for torch's large tensors
    mallopt(mmap_max=0, trim_threshold=2**31 - 1)


def read_peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's memory where there is one, else of the process; 0 on Windows, which does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    if (status := Path("/proc/self/status")).exists():  # getrusage counts the process that started this one, too
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
