import math

import pytest
import torch

from pggan.metrics import MetricError, cmmd
from pggan.metrics.cmmd import CMMD, gaussian_mmd
from pggan.metrics.features import Features


def draw(count, shift=0.0, seed=0, dimensions=32):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)) + shift


def test_equal_sets_have_no_discrepancy():
    assert gaussian_mmd(draw(20), draw(20)) == pytest.approx(0, abs=1e-12)


def test_two_points_give_the_kernels_value():
    x, y = torch.zeros(1, 3), torch.tensor([[0.0, 3.0, 4.0]])
    assert gaussian_mmd(x, y, sigma=2.0) == pytest.approx(2 - 2 * math.exp(-25 / 8))


def test_slices_do_not_change_the_result(monkeypatch):
    whole = gaussian_mmd(draw(30), draw(20, shift=1.0, seed=1))
    monkeypatch.setattr(cmmd, "MAX_PAIRS", 100)
    assert gaussian_mmd(draw(30), draw(20, shift=1.0, seed=1)) == pytest.approx(whole, rel=1e-12)


def test_features_are_normalized_and_the_result_matches_torch_fidelitys_kernel():
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    real, fake = Features(), Features()
    real.update(draw(40))
    fake.update(3 * draw(40, shift=0.4, seed=1))
    x, y = (torch.nn.functional.normalize(side.to_tensor()).double().numpy() for side in (fake, real))
    kernels = [kid.kernel_rbf(a, b, kid_kernel_rbf_sigma=10.0) for a, b in ((x, x), (x, y), (y, y))]
    expected = 1000 * kid.mmd2(*kernels, mmd_est="biased")
    assert CMMD().compare(real, fake)["cmmd"] == pytest.approx(expected, rel=1e-6)


def test_it_needs_at_least_two_images():
    with pytest.raises(MetricError, match="CMMD needs at least 2 real and 2 generated images, not 5 and 1"):
        CMMD().check(5, 1)
