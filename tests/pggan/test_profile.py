import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from pggan import Discriminator
from pggan.config import resolve_config
from pggan.training.growth import GrowthController
from pggan.training.profile import FlopCount, measure_matrix_rate, profile_step

OPTIONS = {"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8, "precision": "fp32"}


def test_profile_lists_every_part_of_a_step():
    config = resolve_config(OPTIONS)
    text = profile_step(
        config, torch.device("cpu"), GrowthController(config).phase(round(config.stabilize_kimg[4] * 1000) + 1), 1
    )
    assert text.startswith("8x8 fading in, batch 8, fp32, CPU")
    for part in ("data", "G forward", "D forward", "penalty, double backward", "optimizers, EMA", "GFLOP/s"):
        assert part in text


def test_operation_count_matches_torchs():
    network, images = Discriminator(16, fmap_max=8), torch.randn(4, 3, 16, 16)
    with FlopCount() as ours:
        network(images)
    with FlopCounterMode(display=False) as theirs:
        network(images)
    assert ours.total == theirs.get_total_flops() > 0


def test_matrix_rate_is_measured_in_bounded_time_on_a_slow_device(monkeypatch):
    """Simulate a CPU that emulates bf16, where a product of the largest size takes minutes."""
    sizes, product = [], torch.mm

    def multiply_slowly(x, y, out):
        sizes.append(len(x))
        time.sleep(0.1 * (len(x) / 128) ** 3)
        return product(x, y, out=out)

    start = time.monotonic()
    rate = measure_matrix_rate(torch.device("cpu"), torch.float32)
    assert time.monotonic() - start < 6
    monkeypatch.setattr(torch, "mm", multiply_slowly)
    start = time.monotonic()
    assert 0 < measure_matrix_rate(torch.device("cpu"), torch.bfloat16, 0.5) < rate
    assert time.monotonic() - start < 2 and max(sizes) <= 256
