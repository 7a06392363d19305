"""Fréchet Inception distance (FID; Heusel et al. 2017, arXiv 1706.08500, equation 6)."""

from __future__ import annotations

import torch
from scipy.linalg import lapack
from torch import Tensor

from .errors import MetricError
from .features import DIMENSIONS, FeatureStatistics

NO_COVARIANCE = "not statistics of features: the covariance is not finite or not positive semidefinite"


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Return the squared Fréchet distance |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians.

    Args:
        mean1, mean2: [D], float64.
        covariance1, covariance2: [D, D], float64; may be singular.

    Raises:
        MetricError: the dimensions differ, or a matrix is not a covariance.
    """
    if mean1.shape != mean2.shape:
        raise MetricError(f"the two sides' features have different dimensions, {len(mean1)} and {len(mean2)}")
    trace_of_root = trace_of_product_root(square_root(covariance1), covariance2)
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_of_root
    return distance.clamp_min(0).item()  # rounding can make the distance of equal distributions negative


def square_root(covariance: Tensor) -> Tensor:
    """Return A [D, rank] with A A^T = C, float64.

    The method is Cholesky's with pivoting (LAPACK's dpstrf), which also factors singular matrices.

    Raises:
        MetricError: C is not a covariance: not finite, or not positive semidefinite.
    """
    if not covariance.isfinite().all() or (covariance.diagonal() < 0).any():
        raise MetricError(NO_COVARIANCE)
    # LAPACK directly: torch has no pivoted Cholesky, and a plain one fails for singular matrices
    factor, pivots, rank, _ = lapack.dpstrf(covariance.numpy(), lower=1)
    root = torch.empty(covariance.shape[0], rank, dtype=torch.float64)
    # undo the pivoting; LAPACK counts rows from 1
    root[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(factor[:, :rank]).tril()
    # dpstrf stops at the first negative pivot. If that was not mere rounding (1e-6), A A^T lacks a part of C.
    if (root.square().sum() - covariance.trace()).abs() > 1e-6 * covariance.trace():
        raise MetricError(NO_COVARIANCE)
    return root


def trace_of_product_root(root1: Tensor, covariance2: Tensor) -> float:
    """Return Tr (C1 C2)^(1/2), given A with C1 = A A^T.

    C1 C2 and the symmetric A^T C2 A have the same nonzero eigenvalues, so the trace is the sum of their square roots.
    Unlike a matrix square root of C1 C2, this never becomes complex or NaN, even for singular covariances.
    """
    return torch.linalg.eigvalsh(root1.T @ covariance2 @ root1).clamp_min(0).sqrt().sum().item()


class FID:
    """The Fréchet distance of Gaussians fitted to the Inception features; see `frechet_distance`."""

    accumulator_type = FeatureStatistics
    uses_reals = True
    dimensions = DIMENSIONS  # of the features; `Suite` sets it

    def check(self, real: int, fake: int) -> str | None:
        """Return a warning for few images. Raises MetricError for fewer than two of either."""
        if min(real, fake) < 2:
            raise MetricError(f"FID needs at least 2 real and 2 generated images, not {real} and {fake}")
        if min(real, fake) < self.dimensions:
            return (
                f"FID of {min(real, fake)} images, fewer than its {self.dimensions} dimensions, is biased upward (its "
                "covariances are singular); compare it only with FIDs of the same number of images"
            )
        return None

    def compare(self, real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
        """Return {"fid": ...}; lower is better."""
        return {"fid": frechet_distance(*real.moments(), *fake.moments())}
