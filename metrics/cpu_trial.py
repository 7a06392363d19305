"""Find out what this machine's CPU can compute: ask torch, or try it in another process."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

# Values of these variables that restrict oneDNN and ATen to instruction sets without bf16, by their documentation
BEFORE_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
RESTRICTIONS = {
    "ONEDNN_MAX_CPU_ISA": BEFORE_BF16,
    "DNNL_MAX_CPU_ISA": BEFORE_BF16,
    "ATEN_CPU_CAPABILITY": {"DEFAULT", "AVX2"},
}
X86 = ("x86_64", "amd64", "i386", "i686")
TRIAL_SECONDS = 20.0  # limit of a trial, which takes milliseconds; starting Python and importing torch may take 10 s


def has_bf16_units() -> bool:
    """Return whether this CPU computes in bf16 rather than emulating it; True if torch cannot tell.

    Emulated bf16 is correct, but tens of times slower than float32.
    """
    for variable, without in RESTRICTIONS.items():
        if os.environ.get(variable, "").upper() in without:
            return False
    if call_if_available(has_bf16_kernels) is False:
        return False  # convolutions in bf16 run on torch's own slow kernels
    if platform.machine().lower() not in X86:
        return True
    # oneDNN also supports bf16 on AVX-512 without bf16 instructions, by emulation
    queries = (torch.cpu._is_avx512_bf16_supported, torch.cpu._is_amx_tile_supported)
    flags = [call_if_available(query) for query in queries]
    return True in flags or None in flags


def has_bf16_kernels() -> bool:
    """Return whether oneDNN has bf16 kernels for this CPU, native or emulated. Raises AttributeError on some torch."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def call_if_available(query: Callable[[], bool]) -> bool | None:
    """Return the result of a query with torch's private functions, or None if this version of torch lacks them."""
    try:
        return bool(query())
    except (AttributeError, RuntimeError):
        return None


def run_apart(work: Callable[..., Any], *arguments: Any, seconds: float = TRIAL_SECONDS) -> Any:
    """Return `work(*arguments)`, computed on one thread of another process; None if it fails, dies or takes longer.

    Under some hypervisors a CPU announces instructions, such as AMX's, that then kill the process.

    Args:
        work: on Linux any function, because the process is forked, which takes milliseconds; elsewhere a function of a
            module, because the process is spawned and imports torch.
        seconds: limit of time.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_result, args=(sender, work, arguments), daemon=True)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def send_result(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Send the result of the work to the parent, without any output: a crash here is an answer, not an error."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)  # a forked process cannot use its parent's threads
    sender.send(work(*arguments))
