import numpy as np
import pytest
import torch

from pggan.metrics.features import Features, FeatureStatistics
from pggan.metrics.fid import FID
from pggan.metrics.fid_infinity import FIDInfinity, compute_subset_fids, fit_intercept


def collect(array):
    features = Features()
    features.update(torch.from_numpy(array.astype(np.float32)))
    return features


def test_fit_intercept_recovers_the_intercept():
    x = 1 / np.linspace(100, 1000, 15)
    assert fit_intercept(x, 7 + 300 * x) == pytest.approx((7, 0), abs=1e-9)
    noisy = 7 + 300 * x + np.tile([0.1, -0.1, 0], 5)
    intercept, error = fit_intercept(x, noisy)
    assert abs(intercept - 7) < 3 * error < 0.5


@pytest.mark.parametrize("size", [400, 20])
def test_the_fid_of_a_subset_is_the_fid_of_its_images(size):
    rng = np.random.default_rng(0)
    real, fake = rng.normal(0, 1, (500, 32)), rng.normal(0.2, 1.2, (400, 32))
    (ours,) = compute_subset_fids(collect(real), collect(fake), np.array([size]))
    chosen = np.random.default_rng(2020).permutation(400)[:size]
    statistics = FeatureStatistics(), FeatureStatistics()
    for s, x in zip(statistics, (real, fake[chosen]), strict=True):
        s.update(torch.from_numpy(x.astype(np.float32)))
    assert ours == pytest.approx(FID().compare(*statistics)["fid"], rel=1e-5)


def test_fid_infinity_is_near_the_true_distance_when_fid_is_far_above_it():
    rng = np.random.default_rng(1)
    real, fake = collect(rng.normal(0, 1, (100_000, 64))), collect(rng.normal(0.1, 1, (1000, 64)))
    fids = compute_subset_fids(real, fake, np.array([1000]))
    result = FIDInfinity().compare(real, fake)
    assert fids[0] > 1.5 and result["fid_inf"] == pytest.approx(64 * 0.1**2, abs=0.3)
    assert 0 < result["fid_inf_error"] < 0.2
