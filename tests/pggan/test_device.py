import sys
import time
from pathlib import Path

import pytest
import torch

from pggan.checkpoints import RunDirectory
from pggan.config import ConfigError, resolve_config
from pggan.training import device
from pggan.training.device import (
    EMULATED,
    choose_device,
    choose_kernels,
    choose_precision,
    read_peak_memory,
    release_unused_memory,
    time_convolutions,
)
from pggan.training.resume import resolve_resumed_config

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def make_config(**options):
    return resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 16} | options)


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """Return a function that fakes bf16 units and every trial's result, and returns the arguments of the trials."""
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device, "has_bf16_units", lambda: True)
    trials = []

    def install(result):
        monkeypatch.setattr(device, "run_apart", lambda *arguments, **_: trials.append(arguments) or result)
        return trials

    return install


@pytest.mark.parametrize("times, expected", [((1.6, 1.0), "bf16"), ((1.4, 1.0), "fp32"), (None, "fp32")])
def test_auto_precision_follows_a_trial_in_a_separate_process(trial, times, expected):
    trials = trial(times)
    assert choose_precision(make_config(fmap_max=32), CPU) == expected
    assert trials == [(time_convolutions, 32)]


def test_trials_are_cached_by_width_and_environment(trial, monkeypatch):
    trials = trial((2.0, 1.0))
    for _ in range(2):
        assert choose_precision(make_config(fmap_max=32), CPU) == "bf16"
    assert len(trials) == 1
    choose_precision(make_config(fmap_max=64), CPU)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    choose_precision(make_config(fmap_max=32), CPU)
    monkeypatch.setattr(device, "read_cpu_name", lambda: "another")
    choose_precision(make_config(fmap_max=32), CPU)
    assert len(trials) == 4


def test_failed_trials_are_not_cached(trial):
    trials = trial(None)
    for _ in range(2):
        assert choose_precision(make_config(fmap_max=32), CPU) == "fp32"
    assert len(trials) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b'{"seconds": [1]}', b'{"seconds": null}', b"\xff", b"[]"])
def test_a_damaged_cache_is_ignored(trial, tmp_path, content):
    trials = trial((2.0, 1.0))
    choose_precision(make_config(fmap_max=32), CPU)
    (file,) = (tmp_path / "cache" / "precision").iterdir()
    file.write_bytes(content)
    assert choose_precision(make_config(fmap_max=32), CPU) == "bf16" and len(trials) == 2


def test_an_unwritable_cache_is_ignored(trial, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "file" / "cache"))
    trial((2.0, 1.0))
    assert choose_precision(make_config(fmap_max=32), CPU) == "bf16"


def test_a_hanging_trial_times_out(monkeypatch, tmp_path):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "has_bf16_units", lambda: True)
    monkeypatch.setattr(device, "time_convolutions", lambda maps: time.sleep(60))
    start = time.monotonic()
    assert choose_precision(make_config(fmap_max=32), CPU) == "fp32"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("units, maps", [(True, 16), (False, 512)])
def test_narrow_networks_and_cpus_without_bf16_skip_the_trial(monkeypatch, units, maps):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "run_apart", lambda *_, **__: pytest.fail("ran a trial"))
    assert choose_precision(make_config(fmap_max=maps), CPU) == "fp32"


def test_a_trial_measures_both_precisions():
    fp32, bf16 = time_convolutions(32)
    assert 0 < fp32 < 5 and 0 < bf16 < 5


def test_requested_precision_is_used_if_supported(monkeypatch):
    monkeypatch.setattr(device, "run_apart", lambda *_: None)
    assert choose_precision(make_config(precision="fp32"), CPU) == "fp32"
    with pytest.raises(ConfigError, match="cannot compute in bf16"):
        choose_precision(make_config(precision="bf16"), CPU)
    with pytest.raises(ConfigError, match=r"use --precision fp32 --out ANOTHER --resume runs/a/latest\.pt"):
        choose_precision(make_config(precision="bf16"), CPU, Path("runs/a/latest.pt"))


@pytest.mark.parametrize("units", [True, False])
def test_emulated_bf16_on_a_cpu_triggers_a_warning(monkeypatch, units):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "run_apart", lambda *_: True)
    lines = []
    assert choose_precision(make_config(precision="bf16"), CPU, warn=lines.append) == "bf16"
    assert lines == ([] if units else [EMULATED])


def test_a_run_resumes_in_its_original_precision(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(make_config(precision="bf16").to_dict())
    assert resolve_resumed_config(run, make_config()).precision == "bf16"
    with pytest.raises(ConfigError, match="precision: bf16 -> fp32"):
        resolve_resumed_config(run, make_config(precision="fp32"))


def test_peak_memory_covers_allocated_tensors():
    tensor = torch.ones(2**24)  # perhaps in memory that earlier tests freed
    assert read_peak_memory(CPU) >= tensor.nbytes * 0.99


@pytest.fixture
def gpu(monkeypatch):
    """Return a function that pretends there is a GPU of a name and compute capability."""

    def install(name, capability):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return install


@pytest.mark.parametrize("capability, expected", [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_on_a_gpu_follows_its_compute_capability(gpu, capability, expected):
    gpu("a GPU", capability)
    assert choose_precision(make_config(), GPU) == expected
    assert choose_precision(make_config(precision="fp32"), GPU) == "fp32"


@pytest.mark.parametrize(
    "precision, line",
    [
        (
            "auto",
            "warning: Tesla T4 (compute capability 7.5) has no bf16 tensor cores: --precision auto is fp32, and the",
        ),
        (
            "bf16",
            "warning: Tesla T4 (compute capability 7.5) has no bf16 tensor cores: --precision bf16 is emulated; fp32",
        ),
        ("fp32", ""),
    ],
)
def test_gpus_without_bf16_tensor_cores_trigger_a_warning(gpu, precision, line):
    lines = []
    for name, capability in (("A100", (8, 0)), ("Tesla T4", (7, 5))):
        gpu(name, capability)
        choose_precision(make_config(precision=precision), GPU, warn=lines.append)
    assert len(lines) == bool(line) and "".join(lines).startswith(line)


@pytest.fixture
def global_settings():
    """Restore PyTorch's global settings after the test."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32
    yield
    cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32 = before
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_fp32_is_not_tf32_on_a_gpu(monkeypatch, global_settings):
    torch.backends.cuda.matmul.allow_tf32 = True
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
    assert choose_device("cuda:0") == GPU
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.conv.fp32_precision != "tf32" != torch.backends.cuda.matmul.fp32_precision


def test_deterministic_kernels_are_used_only_if_asked_for(monkeypatch, global_settings):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose_kernels(deterministic=False)
    assert not torch.backends.cudnn.benchmark and not torch.are_deterministic_algorithms_enabled()
    choose_kernels(deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_the_peak_memory_of_a_gpu_is_what_the_driver_gave_since_the_last_release(monkeypatch):
    calls = []
    for name in ("empty_cache", "reset_peak_memory_stats", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *device, name=name: calls.append((name, *device)) or 7)
    release_unused_memory(GPU)
    assert read_peak_memory(GPU) == 7
    assert calls == [("empty_cache",), ("reset_peak_memory_stats", GPU), ("max_memory_reserved", GPU)]
    release_unused_memory(CPU)
    assert len(calls) == 3
