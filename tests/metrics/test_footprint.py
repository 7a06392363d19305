import pytest
import torch

from pggan.metrics import estimate_metric_memory
from pggan.metrics.swd import PatchDescriptors

GIB = 1 << 30


def test_swd_fits_into_two_gibibytes_and_says_what_it_stores():
    for side, levels in ((1024, 7), (256, 5), (32, 2), (16, 1), (8, 1)):
        memory, disk = estimate_metric_memory(["swd"], 10000, 10000, 3, side)
        assert memory < GIB and disk == 2 * 10000 * 128 * 147 * 4 * levels
    assert estimate_metric_memory(["swd"], 50000, 10**6, 3, 16)[1] == 2 * 16384 * 128 * 147 * 4  # first 16,384 only


def test_kept_features_are_counted():
    assert estimate_metric_memory(["fid"], 50000, 50000, 3, 64) == estimate_metric_memory(["fid"], 100, 100, 3, 64)
    assert estimate_metric_memory(["kid"], 50000, 70000, 3, 64)[0] > 120_000 * 2048 * 4
    assert estimate_metric_memory(["msssim"], 50000, 50000, 3, 64) == (0, 0)


@pytest.mark.parametrize(
    ("metrics", "side", "count", "measured"),
    [
        ("swd", 1024, 10000, 891),
        ("swd", 256, 10000, 922),
        ("fid,mind,swd", 1024, 256, 1221),
        ("fid,mind,swd", 256, 256, 934),
    ],
)
def test_the_estimate_is_within_5_percent_of_measured_peaks(metrics, side, count, measured):
    """Compare with benchmarks/results/metric-memory/memory.jsonl, in MiB."""
    estimate = estimate_metric_memory(metrics.split(","), count, count, 3, side)[0] / 2**20
    assert estimate == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("side", [16, 64])
def test_the_disk_space_is_what_the_accumulator_takes(side):
    descriptors = PatchDescriptors()
    descriptors.update(torch.zeros(5, 3, side, side, dtype=torch.uint8))
    taken = sum(4 * level.count * level.size for level in descriptors.levels.values())
    assert 2 * taken == estimate_metric_memory(["swd"], 5, 5, 3, side)[1]
