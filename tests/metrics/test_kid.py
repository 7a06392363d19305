import numpy as np
import pytest
import torch

from pggan.metrics.features import Features
from pggan.metrics.kid import KID, polynomial_mmd


def compute_mmd_by_formula(x, y):
    """Return the estimator of the paper's equation 4 in float64, with loops over all pairs."""
    x, y = x.astype(np.float64), y.astype(np.float64)

    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    n = len(x)
    within = sum(k(s[i], s[j]) for s in (x, y) for i in range(n) for j in range(n) if i != j)
    return within / (n * (n - 1)) - 2 * sum(k(a, b) for a in x for b in y) / n**2


def collect(array):
    features = Features()
    features.update(torch.from_numpy(array))
    return features


@pytest.mark.parametrize("shift", [0, 0.5])
def test_kid_agrees_with_the_formula(shift):
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (30, 8)).astype(np.float32), rng.normal(shift, 1, (30, 8)).astype(np.float32)
    ours = polynomial_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert ours == pytest.approx(compute_mmd_by_formula(x, y), rel=1e-4, abs=1e-6)


def test_kid_of_two_point_masses_is_the_difference_of_the_kernels():
    a, b = torch.zeros(10, 4), torch.full((10, 4), 2.0)
    assert polynomial_mmd(a, b) == pytest.approx(1 + 5**3 - 2 * 1)


def test_kid_is_unbiased_for_equal_distributions():
    rng = np.random.default_rng(1)
    draws = [polynomial_mmd(*torch.from_numpy(rng.normal(0, 1, (2, 20, 6)))) for _ in range(400)]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / 20 and min(draws) < 0


def test_subsets_give_mean_and_deviation_and_detect_a_difference():
    rng = np.random.default_rng(2)
    real, same, other = (collect(rng.normal(m, 1, (300, 16)).astype(np.float32)) for m in (0, 0, 0.3))
    metric = KID(subset_size=100)
    near, far = metric.compare(real, same), metric.compare(real, other)
    assert list(near) == ["kid", "kid_std"]
    assert abs(near["kid"]) < 5 * near["kid_std"] < far["kid"]
    assert metric.compare(real, same) == near


def test_subsets_shrink_to_the_images_there_are():
    rng = np.random.default_rng(3)
    few, many = (collect(rng.normal(0, 1, (n, 16)).astype(np.float32)) for n in (60, 300))
    assert KID().compare(few, many) == KID(subset_size=60).compare(few, many)
    # every subset would be all images: no deviation
    assert KID().compare(few, few) == {"kid": polynomial_mmd(few.to_tensor(), few.to_tensor())}
    warning = "KID uses subsets of 60 images instead of 1000, because it compares 60 real and 300 generated ones"
    assert KID().check(60, 300) == warning
    assert KID().check(1000, 1000) is None
