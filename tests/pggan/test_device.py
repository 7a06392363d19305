from pathlib import Path

import pytest
import torch

from checkpoints import RunDirectory
from pggan.config import ConfigError, resolve
from pggan.training import device
from pggan.training.device import FASTER_IN_BF16, choose_precision, peak_memory
from pggan.training.resume import same_run

CPU = torch.device("cpu")


def config(**options):
    return resolve({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 16} | options)


@pytest.mark.parametrize("faster, expected", [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_what_a_trial_in_another_process_found(monkeypatch, faster, expected):
    tried = []
    monkeypatch.setattr(device, "survives", lambda code: tried.append(code) or faster)
    assert choose_precision(config(fmap_max=32), CPU) == expected
    assert tried == [FASTER_IN_BF16.format(maps=32)]
    compile(tried[0], "trial", "exec")


def test_narrow_networks_are_not_tried_out(monkeypatch):
    monkeypatch.setattr(device, "survives", lambda code: pytest.fail("tried out"))
    assert choose_precision(config(), CPU) == "fp32"


def test_precision_that_was_asked_for_is_taken_where_it_can_be(monkeypatch):
    monkeypatch.setattr(device, "survives", lambda code: False)
    assert choose_precision(config(precision="fp32"), CPU) == "fp32"
    with pytest.raises(ConfigError, match="cannot compute in bf16"):
        choose_precision(config(precision="bf16"), CPU)
    with pytest.raises(ConfigError, match=r"use fp32 in a new run .* --resume runs/a/latest\.pt"):
        choose_precision(config(precision="bf16"), CPU, Path("runs/a/latest.pt"))


def test_a_run_goes_on_in_the_precision_it_began_with(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(config(precision="bf16").to_dict())
    assert same_run(run, config()).precision == "bf16"
    with pytest.raises(ConfigError, match="precision: bf16 -> fp32"):
        same_run(run, config(precision="fp32"))


def test_peak_memory_is_at_least_what_is_taken():
    held = torch.ones(2**24)  # perhaps in memory that earlier tests gave back
    assert peak_memory(CPU) >= held.nbytes * 0.99
