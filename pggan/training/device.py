"""Choose the device and the precision of a run, and measure memory use and the speed of matrix products."""

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

from pggan.datasets.cache_files import find_cache_folder, write_atomically
from pggan.datasets.parallel import count_cores, mallopt
from pggan.metrics.cpu_trial import RESTRICTIONS, has_bf16_units, run_apart

from ..config import ConfigError, TrainConfig
from ..networks.progressive import count_feature_maps
from .ranks import SINGLE_PROCESS, Ranks


def choose_device(name: str, ranks: Ranks = SINGLE_PROCESS) -> torch.device:
    """Return the device for --device: auto, cpu, cuda or cuda:N. Each of several processes uses its own GPU.

    On a GPU, turns TF32 off, so that fp32 is float32 in convolutions too, where PyTorch would round to 10 bits.

    Raises:
        ConfigError: the device does not exist or does not work, or there are fewer GPUs than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if ranks.world_size > 1 and name.startswith("cuda"):
        if name != "cuda":
            raise ConfigError(
                f"--device: {name} cannot be used by several processes, which need a GPU each; use --device cuda"
            )
        count = torch.cuda.device_count()
        if not count:
            raise ConfigError("--device: this machine has no usable GPU; use --device cpu")
        if ranks.local_rank >= count:
            raise ConfigError(
                f"--device: more processes than GPUs on this machine ({count}); use torchrun --nproc-per-node {count}"
            )
        name = f"cuda:{ranks.local_rank}"
        torch.cuda.set_device(name)
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda") or name.startswith("cpu:"):
            raise RuntimeError("choose auto, cpu, cuda or cuda:N")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device: {name} cannot be used: {str(error).splitlines()[0]}") from None
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # threads beyond a container's CPU quota would spin at OpenMP's barriers and use the quota up
        torch.set_num_threads(min(torch.get_num_threads(), count_cores()))
    return device


def choose_kernels(deterministic: bool) -> None:
    """Make GPU results bit-reproducible if asked to, at a lower speed. Call it before the first use of the GPU.

    Deterministic kernels use no atomic additions, whose order varies; PyTorch warns of operations without one. CPU
    results are reproducible either way. cuDNN's choice of kernels by timing them (cudnn.benchmark) stays off: on an
    H200 it gained nothing at 32x32 with 128 and 512 maps, and cost up to 5.6 s per batch size.
    """
    if deterministic:
        # which cuBLAS needs for it (PyTorch's notes on reproducibility)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # no code here reads memory before writing it, so filling it first would only cost time
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False


def describe_device(device: torch.device) -> str:
    """Return the GPU's name, or the CPU's architecture and thread count, such as "CPU x86_64, 2 threads"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU {platform.machine()}, {threads} thread" + "s" * (threads > 1)


MIN_TRIAL_MAPS = 32  # feature maps; in narrower networks convolutions are too small a part of a step to matter
# Measured on an AMD EPYC with AVX512_BF16: convolutions 2 times as fast make whole steps 1.5 (64 maps at 32x32) to 1.9
# times as fast (128 maps at 16x16). 1.5 leaves a gain, and is far enough from 2 for the choice not to vary by chance.
MIN_BF16_SPEEDUP = 1.5
CHOICE_SECONDS = 1.5  # limit on the trial; the two dtypes take 0.3 s together on two cores of 3 GHz
EMULATED = (
    "warning: this CPU has no bf16 instructions, so --precision bf16 is emulated and many times slower than fp32; use "
    "it only to resume a bf16 run exactly, else --precision fp32"
)


def choose_precision(
    config: TrainConfig, device: torch.device, latest: Path | None = None, warn: Callable[[str], Any] = lambda _: None
) -> str:
    """Return "fp32" or "bf16"; for --precision auto, bf16 on GPUs with units for it and on CPUs that gain from it.

    This takes 2 s at most. A run keeps the precision chosen at its start.

    Args:
        latest: checkpoint of the run being resumed, if any, for the error's remedy.
        warn: called with a warning if bf16 is emulated, or a GPU's tensor cores are not used.

    Raises:
        ConfigError: bf16 was requested, or is the run's precision, on a CPU that cannot compute in it.
    """
    if config.precision == "bf16" and device.type == "cpu":
        if not run_apart(compute_in_bf16):
            start = (
                f" --out ANOTHER --resume {quote(str(latest))}, which starts a new run from this one" if latest else ""
            )
            raise ConfigError(f"--precision: this machine's CPU cannot compute in bf16; use --precision fp32{start}")
        if not has_bf16_units():
            warn(EMULATED)
    if device.type == "cuda" and config.precision != "fp32" and not has_bf16_tensor_cores(device):
        warn(describe_old_gpu(device, config.precision))
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16" if has_bf16_tensor_cores(device) else "fp32"
    maps = count_feature_maps(1, config.fmap_base, config.fmap_decay, config.fmap_max)
    return "bf16" if maps >= MIN_TRIAL_MAPS and is_bf16_worthwhile(maps) else "fp32"


def has_bf16_tensor_cores(device: torch.device) -> bool:
    """Return whether a GPU's tensor cores compute in bf16: from compute capability 8.0 (NVIDIA Ampere, 2020) on."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def describe_old_gpu(device: torch.device, precision: str) -> str:
    """Return a warning for a GPU such as V100 or T4, whose tensor cores compute in fp16 only."""
    major, minor = torch.cuda.get_device_capability(device)
    result = "--precision auto is fp32" if precision == "auto" else "--precision bf16 is emulated; fp32 is faster"
    return (
        f"warning: {torch.cuda.get_device_name(device)} (compute capability {major}.{minor}) has no bf16 tensor cores: "
        f"{result}, and the tensor cores are not used"
    )


def compute_in_bf16() -> bool:
    """Run a matrix product and a convolution with their gradients in bf16, and return True if nothing fails.

    Called in a separate process: a CPU without the instructions may kill it.
    """
    x = torch.ones(256, 256, dtype=torch.bfloat16, requires_grad=True)
    images = torch.ones(4, 32, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    ((x @ x).sum() + torch.conv2d(images, torch.ones(32, 32, 3, 3, dtype=torch.bfloat16)).sum()).backward()
    return True


def is_bf16_worthwhile(maps: int) -> bool:
    """Return whether convolutions of `maps` feature maps are at least MIN_BF16_SPEEDUP times as fast in bf16 here.

    CPUs without bf16 instructions are not timed. Times are cached per CPU, PyTorch version and environment. Only on
    Linux does a trial process start fast enough (it is forked); elsewhere the answer is False.
    """
    if sys.platform != "linux" or not has_bf16_units():
        return False
    key = {
        "cpu": read_cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
        "environment": {name: os.environ.get(name) for name in RESTRICTIONS},
        "maps": maps,
    }
    path = find_cache_folder() / "precision" / f"{sha256(json.dumps(key).encode()).hexdigest()[:16]}.json"
    times = read_times(path)
    if times is None:
        times = run_apart(time_convolutions, maps, seconds=CHOICE_SECONDS)
        if times is None:  # it crashed or timed out, perhaps because the CPU was busy: do not cache that
            return False
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(key | {"seconds": times}) + "\n")
    return times[0] >= MIN_BF16_SPEEDUP * times[1]


def read_times(path: Path) -> tuple[float, float] | None:
    """Return cached results of `time_convolutions`; None if the file is missing or damaged."""
    try:
        fp32, bf16 = json.loads(path.read_text())["seconds"]
        return float(fp32), float(bf16)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def time_convolutions(maps: int) -> tuple[float, float]:
    """Return the seconds of a 3x3 convolution with its gradients in float32 and in bf16, the best of 3 each."""

    def measure(dtype: torch.dtype) -> float:
        # 4 images of 16x16 keep the trial well within CHOICE_SECONDS
        x = torch.ones(4, maps, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
        weight, times = torch.ones(maps, maps, 3, 3, dtype=dtype), []
        geometry = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        for _ in range(4):  # the first compiles kernels
            start = time.perf_counter()
            y = torch.convolution(x, weight, None, *geometry)
            torch.ops.aten.convolution_backward(y, x, weight, None, *geometry, [True, True, False])
            times.append(time.perf_counter() - start)
        return min(times[1:])

    maps = min(maps, 256)  # wider convolutions gain as much and take longer to time
    return measure(torch.float32), measure(torch.bfloat16)


def read_cpu_name() -> str:
    """Return the CPU's model and flags from /proc/cpuinfo, or Python's name for it on other systems."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")  # ARM has no model name
        return "; ".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))
    return f"{platform.processor()} {platform.machine()}"


def measure_matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 3.0) -> float:
    """Return the highest rate of a square matrix product, in FLOP/s: a practical upper bound for a training step.

    Sizes double from 128 up to 2048 on CPUs and 8192 on GPUs, or as far as `seconds` allow: emulated bf16 may reach
    only 1 GFLOP/s.
    """
    largest, times = (2048, 1) if device.type == "cpu" else (8192, 20)
    size, best, end = 128, 0.0, time.perf_counter() + seconds
    for remaining in range(12, 0, -1):  # 7 trials reach 8192; the others repeat the largest size
        x, y, out = (torch.randn(size, size, device=device).to(dtype) for _ in range(3))
        torch.mm(x, y, out=out)  # compiles kernels
        float(out[0, 0])  # waits for the device
        start = time.perf_counter()
        for _ in range(times):
            torch.mm(x, y, out=out)
        float(out[0, 0])
        now = time.perf_counter()
        best = max(best, 2 * size**3 * times / (now - start))
        larger = min(2 * size, largest)
        if remaining == 1 or now + 2 * (now - start) * (larger / size) ** 3 > end:  # twice the time, to be safe
            break
        size = larger
    return best


def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed CPU tensors, in huge pages, instead of returning it to Linux.

    Otherwise every step gets new pages, which Linux fills with zeros: a tenth of a step's time. Call it before the
    first tensor is made.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages for torch's large tensors
    mallopt(mmap_max=0, trim_threshold=2**31 - 1)


def read_peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: PyTorch's on a GPU, the process's on a CPU (0 on Windows: not available).

    On a GPU this is what PyTorch took from the driver since `release_unused_memory`, the unused rest of its blocks
    included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if sys.platform == "win32":
        return 0
    if (status := Path("/proc/self/status")).exists():  # getrusage includes the process that started this one
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )  # KiB, on macOS bytes


def release_unused_memory(device: torch.device) -> None:
    """Return a GPU's memory that PyTorch keeps for reuse to the driver, and begin a new peak; call it between stages.

    The blocks of evaluation, or of another stage, have sizes of little use to the next steps.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
