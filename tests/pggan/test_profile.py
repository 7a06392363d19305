import torch
from torch.utils.flop_counter import FlopCounterMode

from pggan import Discriminator
from pggan.config import resolve
from pggan.training.growth import GrowthController
from pggan.training.profile import FlopCount, report

OPTIONS = {"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8, "precision": "fp32"}


def test_a_report_has_every_part_of_a_step():
    config = resolve(OPTIONS)
    text = report(
        config, torch.device("cpu"), GrowthController(config).phase(round(config.stabilize_kimg * 1000) + 1), 1
    )
    assert text.startswith("8x8 fading in, batch 8, fp32, CPU")
    for part in ("data", "G forward", "D forward", "penalty, double backward", "optimizers, EMA", "GFLOP/s"):
        assert part in text


def test_operations_are_counted_as_torch_counts_them():
    network, images = Discriminator(16, fmap_max=8), torch.randn(4, 3, 16, 16)
    with FlopCount() as ours:
        network(images)
    with FlopCounterMode(display=False) as theirs:
        network(images)
    assert ours.total == theirs.get_total_flops() > 0
