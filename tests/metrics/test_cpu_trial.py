import importlib
import os
import platform
import signal
import time

import pytest
import torch

from pggan.metrics.cpu_trial import RESTRICTIONS, has_bf16_units, run_apart


@pytest.fixture
def machine(monkeypatch):
    """Return a function that simulates a CPU with the given flags; with None, torch cannot tell."""
    for variable in RESTRICTIONS:
        monkeypatch.delenv(variable, raising=False)

    def simulate(architecture, onednn, avx512_bf16=None, amx=None):
        def unknown():
            raise AttributeError

        def answer(value):
            return unknown if value is None else lambda: value

        monkeypatch.setattr(platform, "machine", lambda: architecture)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", answer(onednn))
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", answer(onednn), raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", answer(avx512_bf16), raising=False)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", answer(amx), raising=False)

    return simulate


@pytest.mark.parametrize(
    "cpu, expected",
    [
        (("x86_64", False, False, False), False),  # AVX2 only, like AMD's Zen 3
        (("x86_64", True, False, False), False),  # AVX-512 without bf16: oneDNN emulates it
        (("x86_64", True, True, False), True),  # AMD's Zen 4
        (("AMD64", True, False, True), True),  # Intel with AMX, under Windows' name
        (("aarch64", True), True),  # ARM with bf16
        (("aarch64", False), False),
        (("arm64", None), True),  # torch cannot tell: a trial will
        (("x86_64", None, None, None), True),
        (("x86_64", None, False, False), False),
    ],
)
def test_flags_distinguish_native_from_emulated_bf16(machine, cpu, expected):
    machine(*cpu)
    assert has_bf16_units() is expected


@pytest.mark.parametrize(
    "variable, value, expected",
    [
        ("ONEDNN_MAX_CPU_ISA", "avx2", False),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", False),
        ("ATEN_CPU_CAPABILITY", "default", False),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True),
        ("ONEDNN_MAX_CPU_ISA", "DEFAULT", True),
    ],
)
def test_a_restricted_instruction_set_is_respected(machine, monkeypatch, variable, value, expected):
    machine("x86_64", True, True, True)
    monkeypatch.setenv(variable, value)
    assert has_bf16_units() is expected


def test_the_installed_torch_has_every_function_used():
    """The functions are torch's private ones: a release may rename them."""
    assert importlib.import_module("torch.cpu")._is_avx512_bf16_supported() in (True, False)
    assert torch.cpu._is_amx_tile_supported() in (True, False)
    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


def compute_product():
    return float((torch.ones(600, 600) @ torch.ones(600, 600)).sum())


def test_results_come_from_another_process_even_after_this_one_used_threads():
    assert run_apart(os.getpid) != os.getpid()
    assert run_apart(compute_product) == compute_product() == run_apart(compute_product)


def test_a_process_that_fails_dies_or_hangs_returns_none_in_time():
    start = time.monotonic()
    assert run_apart(int, "no number") is None
    assert run_apart(die) is None
    assert run_apart(time.sleep, 60, seconds=0.3) is None
    assert time.monotonic() - start < 5


def die():
    os.kill(os.getpid(), signal.SIGILL)
