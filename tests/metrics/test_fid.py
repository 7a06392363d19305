"""Compare FID with closed forms and SciPy's matrix root, also for singular covariances."""

import numpy as np
import pytest
import scipy.linalg
import torch

from pggan.metrics import MetricError
from pggan.metrics.features import FeatureStatistics
from pggan.metrics.fid import FID, frechet_distance, square_root, trace_of_product_root


def draw_covariance(rng, dimensions):
    root = rng.standard_normal((dimensions, dimensions))
    return torch.from_numpy(root @ root.T / dimensions)


def accumulate(*batches):
    result = FeatureStatistics()
    for batch in batches:
        result.update(torch.as_tensor(batch))
    return result


def test_fid_with_equal_covariances_is_the_squared_distance_of_the_means():
    rng = np.random.default_rng(0)
    covariance, (mean1, mean2) = draw_covariance(rng, 16), torch.from_numpy(rng.standard_normal((2, 16)))
    distance = frechet_distance(mean1, covariance, mean2, covariance)
    assert distance == pytest.approx((mean1 - mean2).square().sum().item(), rel=1e-9)


def test_fid_with_commuting_covariances_is_the_squared_distance_of_the_deviations():
    rng = np.random.default_rng(1)
    mean, (deviations1, deviations2) = torch.zeros(8).double(), torch.from_numpy(rng.uniform(0.1, 3, (2, 8)))
    distance = frechet_distance(mean, deviations1.square().diag(), mean, deviations2.square().diag())
    assert distance == pytest.approx((deviations1 - deviations2).square().sum().item(), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_fid_agrees_with_scipys_matrix_root(seed):
    rng = np.random.default_rng(seed)
    real, fake = rng.standard_normal((500, 24)), 0.3 + rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24))
    c1, c2 = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(c1 @ c2).real
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(c1 + c2 - 2 * root)
    assert FID().compare(accumulate(real), accumulate(fake))["fid"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "dimensions"), [(200, 32), (20, 64), (2, 64)])
def test_fid_of_identical_features_is_zero(count, dimensions):
    features = np.random.default_rng(2).uniform(0, 3, (count, dimensions))
    assert 0 <= FID().compare(accumulate(features), accumulate(features))["fid"] < 1e-6


def test_singular_covariances_give_a_finite_symmetric_distance():
    rng = np.random.default_rng(3)
    few, others = accumulate(rng.uniform(0, 1, (10, 64))), accumulate(rng.uniform(0, 2, (15, 64)))
    forward, backward = FID().compare(few, others)["fid"], FID().compare(others, few)["fid"]
    assert np.isfinite(forward) and forward > 1 and forward == pytest.approx(backward, rel=1e-6)


def test_fid_of_constant_features_is_the_squared_distance_of_the_means():
    assert FID().compare(accumulate(np.zeros((5, 8))), accumulate(np.ones((5, 8))))["fid"] == pytest.approx(8)


@pytest.mark.parametrize("split", [[1000], [1, 999], [300, 300, 400], [1] * 1000])
def test_statistics_do_not_depend_on_the_batch_split(split):
    features = np.random.default_rng(4).normal(5, 2, (1000, 12)).astype(np.float32)
    statistics = accumulate(*np.split(features, np.cumsum(split)[:-1]))
    assert statistics.count == 1000
    mean, covariance = statistics.moments()
    np.testing.assert_allclose(mean, features.mean(0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=0, atol=1e-10)


def test_one_image_is_rejected():
    with pytest.raises(MetricError, match="at least 2 real and 2 generated images, not 1 and 5"):
        FID().check(1, 5)
    with pytest.raises(MetricError, match="at least 2 real and 2 generated images; one side has 1"):
        FID().compare(accumulate(np.ones((1, 4))), accumulate(np.ones((5, 4))))


@pytest.mark.parametrize(("count", "dimensions", "rank"), [(100, 32, 32), (10, 32, 9), (1, 8, 0)])
def test_square_root_works_for_covariances_of_any_rank(count, dimensions, rank):
    features = np.random.default_rng(5).standard_normal((count, dimensions))
    covariance = torch.from_numpy(np.cov(features, rowvar=False, bias=True))
    root = square_root(covariance)
    assert root.shape == (dimensions, rank)
    torch.testing.assert_close(root @ root.T, covariance, rtol=0, atol=1e-12)


def test_trace_of_the_root_matches_the_eigenvalues_for_low_rank_covariances():
    rng = np.random.default_rng(6)
    c1, c2 = (torch.from_numpy(np.cov(rng.standard_normal((n, 12)), rowvar=False)) for n in (6, 30))
    expected = np.sqrt(np.linalg.eigvals(c1.numpy() @ c2.numpy()).real.clip(0)).sum()
    assert trace_of_product_root(square_root(c1), c2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1.0])
def test_invalid_covariances_are_rejected(wrong):
    covariance = torch.eye(4).double()
    covariance[2, 2] = wrong
    with pytest.raises(MetricError, match="not finite or not positive semidefinite"):
        frechet_distance(torch.zeros(4).double(), covariance, torch.zeros(4).double(), torch.eye(4).double())


def test_different_dimensions_are_rejected():
    with pytest.raises(MetricError, match="different dimensions, 8 and 4"):
        FID().compare(accumulate(np.ones((5, 8))), accumulate(np.ones((5, 4))))


@pytest.mark.parametrize("seed", range(5))
def test_identical_features_have_exactly_zero_covariance(seed):
    same = np.random.default_rng(seed).uniform(0, 3, 64)
    _, covariance = accumulate(np.tile(same, (7, 1)), np.tile(same, (12, 1))).moments()
    assert (covariance == 0).all()


def test_fewer_images_than_dimensions_trigger_a_warning():
    assert "FID of 2047 images, fewer than its 2048 dimensions" in FID().check(5000, 2047)
    assert FID().check(2048, 2048) is None
