"""Fréchet Inception distance (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

import torch
from scipy.linalg import lapack
from torch import Tensor

from .errors import MetricError
from .features import DIMENSIONS, FeatureStatistics

NO_COVARIANCE = "these are not statistics of features: the covariance is not finite or not positive"


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians, float64.

    Raises:
        MetricError: numbers of dimensions that differ, or what is not a covariance.
    """
    if mean1.shape != mean2.shape:
        raise MetricError(f"the features differ in their dimensions: {len(mean1)} and {len(mean2)}")
    trace_of_root = trace_of_product_root(square_root(covariance1), covariance2)
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_of_root
    return distance.clamp_min(0).item()


def square_root(covariance: Tensor) -> Tensor:
    """A [D, rank] with A A^T = C, by Cholesky's method with pivots: C may be singular.

    Raises:
        MetricError: not a covariance.
    """
    if not covariance.isfinite().all() or (covariance.diagonal() < 0).any():
        raise MetricError(NO_COVARIANCE)
    factor, pivots, rank, _ = lapack.dpstrf(covariance.numpy(), lower=1)
    root = torch.empty(covariance.shape[0], rank, dtype=torch.float64)
    root[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(factor[:, :rank]).tril()
    if (root.square().sum() - covariance.trace()).abs() > 1e-6 * covariance.trace():  # a part has no real root
        raise MetricError(NO_COVARIANCE)
    return root


def trace_of_product_root(root1: Tensor, covariance2: Tensor) -> float:
    """Tr (C1 C2)^(1/2) with C1 = A A^T: the roots of the eigenvalues of the symmetric A^T C2 A.

    No complex numbers and no NaN, also for singular covariances.
    """
    return torch.linalg.eigvalsh(root1.T @ covariance2 @ root1).clamp_min(0).sqrt().sum().item()


class FID:
    """See `frechet_distance`."""

    keeps = FeatureStatistics
    uses_reals = True

    def check(self, real: int, fake: int) -> str | None:
        if min(real, fake) < 2:
            raise MetricError(f"FID needs at least 2 images of each kind, not {min(real, fake)}")
        if min(real, fake) < DIMENSIONS:
            return (
                f"FID of {min(real, fake)} images, fewer than its {DIMENSIONS} dimensions, is far above that of "
                "many: compare it only with FIDs of as many images"
            )
        return None

    def compare(self, real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
        return {"fid": frechet_distance(*real.moments(), *fake.moments())}
