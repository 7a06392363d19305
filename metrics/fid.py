"""Fréchet Inception distance (Heusel et al. 2017, equation 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import MetricError


class FeatureStatistics:
    """Count, sum and sum of outer products of features, accumulated in float64.

    Attributes:
        count: features seen.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total: Tensor | None = None
        self.outer: Tensor | None = None

    def update(self, features: Tensor) -> None:
        """features: [N, D]."""
        x = features.cpu().double()
        if self.total is None:
            self.total, self.outer = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1], x.shape[1])
        self.count += len(x)
        self.total += x.sum(dim=0)
        self.outer += x.T @ x

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased, [D, D]. Raises MetricError for fewer than two images."""
        if self.count < 2:
            raise MetricError(f"FID needs at least 2 images of each kind, not {self.count}")
        mean = self.mean
        return (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)) of two Gaussians, float64.

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), here as the roots of the eigenvalues
    of the symmetric A^T C2 A with C1 = A A^T: no complex numbers, no NaN, also for singular covariances.
    """
    values, vectors = torch.linalg.eigh(covariance1)
    kept = values > values.max().clamp_min(0) * 1e-13
    root = vectors[:, kept] * values[kept].sqrt()
    trace_of_root = torch.linalg.eigvalsh(root.T @ covariance2 @ root).clamp_min(0).sqrt().sum()
    distance = (mean1 - mean2).square().sum() + covariance1.trace() + covariance2.trace() - 2 * trace_of_root
    return distance.clamp_min(0).item()


class FID:
    """See `frechet_distance`; accumulators hold features' statistics."""

    needs = "features"
    accumulator = FeatureStatistics

    def compare(self, real: FeatureStatistics, fake: FeatureStatistics) -> dict[str, float]:
        return {"fid": frechet_distance(real.mean, real.covariance, fake.mean, fake.covariance)}
