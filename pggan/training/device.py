"""Which device and which arithmetic a run uses, and how much memory it took."""

from __future__ import annotations

import os
import platform
import sys

import torch

from metrics.processor import survives

from ..config import ConfigError, TrainConfig


def choose_device(name: str) -> torch.device:
    """The device of a name; auto takes a GPU where there is one. Raises ConfigError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("only cpu and cuda can train")
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


def use_bf16(config: TrainConfig, device: torch.device) -> bool:
    """auto: bfloat16 on GPUs that compute in it, float32 elsewhere.

    Raises:
        ConfigError: bf16 asked for on a CPU that cannot compute in it.
    """
    if config.precision == "bf16" and device.type == "cpu" and not survives(BF16_TRIAL):
        raise ConfigError("--precision: this machine's cpu cannot compute in bf16; use fp32")
    if config.precision != "auto":
        return config.precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def peak_memory(device: torch.device) -> int:
    """Bytes: of the GPU's memory where there is one, else of the process; 0 on Windows, which does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
