import sys
import time
from pathlib import Path

import pytest
import torch

from pggan.checkpoints import RunDirectory
from pggan.config import ConfigError, resolve_config
from pggan.training import device
from pggan.training.device import EMULATED, choose_precision, read_peak_memory, time_convolutions
from pggan.training.resume import resolve_resumed_config

CPU = torch.device("cpu")


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
