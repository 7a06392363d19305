"""What this machine's CPU can compute: ask torch, and try it in another process if asking is not enough."""

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

# Instruction sets without bf16 arithmetic that these variables restrict oneDNN and ATen to, by their documentation.
BEFORE_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
RESTRICTIONS = {
    "ONEDNN_MAX_CPU_ISA": BEFORE_BF16,
    "DNNL_MAX_CPU_ISA": BEFORE_BF16,
    "ATEN_CPU_CAPABILITY": {"DEFAULT", "AVX2"},
}
X86 = ("x86_64", "amd64", "i386", "i686")
TRIAL_SECONDS = 20.0  # for a trial that takes milliseconds; starting Python and importing torch may come to 10


def has_bf16_units() -> bool:
    """Return whether this CPU computes in bf16 rather than emulating it; True if it cannot be asked.

    Emulated bf16 is correct, but tens of times slower than float32.
    """
    for variable, without in RESTRICTIONS.items():
        if os.environ.get(variable, "").upper() in without:
            return False
    if ask(lambda: torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()) is False:
        return False  # convolutions in bf16 run on torch's own slow kernels
    if platform.machine().lower() not in X86:
        return True
    # oneDNN also supports bf16 on AVX-512 without bf16 instructions, by emulation
    flags = [ask(torch.cpu._is_avx512_bf16_supported), ask(torch.cpu._is_amx_tile_supported)]
    return True in flags or None in flags


def ask(question: Callable[[], bool]) -> bool | None:
    """Return the answer of one of torch's private functions, or None if this torch does not have it."""
    try:
        return bool(question())
    except (AttributeError, RuntimeError):
        return None


def run_apart(work: Callable[..., Any], *arguments: Any, seconds: float = TRIAL_SECONDS) -> Any:
    """Return `work(*arguments)` as another process computes it on one thread; None if it fails, dies or takes longer.

    Under some hypervisors a CPU announces instructions, such as AMX's, that then kill the process. On Linux the process
    is forked, which takes milliseconds; elsewhere it imports torch first, so `work` must be a function of a module.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send, args=(sender, work, arguments), daemon=True)  # type: ignore[attr-defined]
    process.start()
    sender.close()
    try:
        return receiver.recv() if receiver.poll(seconds) else None
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def send(sender: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Send the result of the work, silently: what it prints as it dies says nothing to the user."""
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)  # a forked process cannot use its parent's threads
    sender.send(work(*arguments))
