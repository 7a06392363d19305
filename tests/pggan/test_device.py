import sys
import time
from pathlib import Path

import pytest
import torch

from checkpoints import RunDirectory
from pggan.config import ConfigError, resolve_config
from pggan.training import device
from pggan.training.device import EMULATED, choose_precision, read_peak_memory, time_convolutions
from pggan.training.resume import resolve_resumed_config

CPU = torch.device("cpu")


def config(**options):
    return resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 16} | options)


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """trial(result): bf16 units, and this result of every trial. Returns the arguments that trials were run with."""
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device, "has_bf16_units", lambda: True)
    tried = []

    def install(result):
        monkeypatch.setattr(device, "run_apart", lambda *arguments, **_: tried.append(arguments) or result)
        return tried

    return install


@pytest.mark.parametrize("times, expected", [((1.6, 1.0), "bf16"), ((1.4, 1.0), "fp32"), (None, "fp32")])
def test_auto_precision_is_what_a_trial_in_another_process_found(trial, times, expected):
    tried = trial(times)
    assert choose_precision(config(fmap_max=32), CPU) == expected
    assert tried == [(time_convolutions, 32)]


def test_a_trial_is_remembered_for_its_width_and_environment(trial, monkeypatch):
    tried = trial((2.0, 1.0))
    for _ in range(2):
        assert choose_precision(config(fmap_max=32), CPU) == "bf16"
    assert len(tried) == 1
    choose_precision(config(fmap_max=64), CPU)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    choose_precision(config(fmap_max=32), CPU)
    monkeypatch.setattr(device, "read_cpu_name", lambda: "another")
    choose_precision(config(fmap_max=32), CPU)
    assert len(tried) == 4


def test_a_trial_that_gave_no_answer_is_not_remembered(trial):
    tried = trial(None)
    for _ in range(2):
        assert choose_precision(config(fmap_max=32), CPU) == "fp32"
    assert len(tried) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b'{"seconds": [1]}', b'{"seconds": null}', b"\xff", b"[]"])
def test_a_damaged_cache_does_not_matter(trial, tmp_path, content):
    tried = trial((2.0, 1.0))
    choose_precision(config(fmap_max=32), CPU)
    (file,) = (tmp_path / "cache" / "precision").iterdir()
    file.write_bytes(content)
    assert choose_precision(config(fmap_max=32), CPU) == "bf16" and len(tried) == 2


def test_a_cache_that_cannot_be_written_does_not_matter(trial, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "file" / "cache"))
    trial((2.0, 1.0))
    assert choose_precision(config(fmap_max=32), CPU) == "bf16"


def test_a_trial_that_hangs_is_ended_in_time(monkeypatch, tmp_path):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path))
    monkeypatch.setattr(device, "has_bf16_units", lambda: True)
    monkeypatch.setattr(device, "time_convolutions", lambda maps: time.sleep(60))
    start = time.monotonic()
    assert choose_precision(config(fmap_max=32), CPU) == "fp32"
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("units, maps", [(True, 16), (False, 512)])
def test_narrow_networks_and_cpus_without_bf16_are_not_tried_out(monkeypatch, units, maps):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "run_apart", lambda *_, **__: pytest.fail("tried out"))
    assert choose_precision(config(fmap_max=maps), CPU) == "fp32"


def test_a_trial_measures_both_precisions():
    fp32, bf16 = time_convolutions(32)
    assert 0 < fp32 < 5 and 0 < bf16 < 5


def test_precision_that_was_asked_for_is_used_if_it_can_be(monkeypatch):
    monkeypatch.setattr(device, "run_apart", lambda *_: None)
    assert choose_precision(config(precision="fp32"), CPU) == "fp32"
    with pytest.raises(ConfigError, match="cannot compute in bf16"):
        choose_precision(config(precision="bf16"), CPU)
    with pytest.raises(ConfigError, match=r"use --precision fp32 --out ANOTHER --resume runs/a/latest\.pt"):
        choose_precision(config(precision="bf16"), CPU, Path("runs/a/latest.pt"))


@pytest.mark.parametrize("units", [True, False])
def test_bf16_on_a_cpu_that_emulates_it_is_warned_of(monkeypatch, units):
    monkeypatch.setattr(device, "has_bf16_units", lambda: units)
    monkeypatch.setattr(device, "run_apart", lambda *_: True)
    lines = []
    assert choose_precision(config(precision="bf16"), CPU, warn=lines.append) == "bf16"
    assert lines == ([] if units else [EMULATED])


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(config(precision="bf16").to_dict())
    assert resolve_resumed_config(run, config()).precision == "bf16"
    with pytest.raises(ConfigError, match="precision: bf16 -> fp32"):
        resolve_resumed_config(run, config(precision="fp32"))


def test_peak_memory_is_at_least_what_is_taken():
    held = torch.ones(2**24)  # perhaps in memory that earlier tests gave back
    assert read_peak_memory(CPU) >= held.nbytes * 0.99
