"""Accumulators of Inception features: their sums for FID, or all of them for KID and PRDC."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MetricError

DIMENSIONS = 2048  # width of pool3, Inception-v3's last pooling layer


class FeatureStatistics:
    """Count, sum and sum of outer products of features, in float64.

    Attributes:
        count: number of images so far.
    """

    input_name = "features"
    name = "statistics"

    def __init__(self) -> None:
        self.count = 0
        self.origin = self.total = self.outer = torch.zeros(0).double()

    def update(self, features: Tensor) -> None:
        """Add features [N, D]."""
        x = features.cpu().double()
        if not self.count:
            # Sums of differences from the first features lose fewer digits than sums of the features themselves: the
            # covariance is a difference of two sums, which may be nearly equal.
            self.origin = x[0].clone()
            self.total = x.new_zeros(x.shape[1])
            self.outer = x.new_zeros(x.shape[1], x.shape[1])
        x = x - self.origin
        self.count += len(x)
        self.total += x.sum(dim=0)
        self.outer += x.T @ x

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean [D] and the unbiased covariance [D, D]. Raises MetricError for fewer than two images."""
        if self.count < 2:
            raise MetricError(f"FID needs at least 2 real and 2 generated images; one side has {self.count}")
        mean = self.total / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return self.origin + mean, covariance

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as arrays to store in the cache."""
        return {"count": np.array(self.count)} | {n: getattr(self, n).numpy() for n in ("origin", "total", "outer")}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray] | None, count: int) -> FeatureStatistics | None:
        """Restore what `arrays` returned for `count` images; None if these arrays cannot be that."""
        arrays = arrays or {}
        sums = [arrays[name] for name in ("origin", "total", "outer") if name in arrays]
        if len(sums) < 3 or any(x.dtype != np.float64 or not np.isfinite(x).all() for x in sums):
            return None
        size = sums[0].size
        if arrays.get("count", -1) != count or [x.shape for x in sums] != [(size,), (size,), (size, size)]:
            return None
        self = cls()
        self.count = count
        self.origin, self.total, self.outer = map(torch.from_numpy, sums)
        return self


class Features:
    """All features, in float32: 8 KiB per image."""

    input_name = "features"
    name = "features"

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Add features [N, D]."""
        self.batches.append(features.float().cpu())

    def to_tensor(self) -> Tensor:
        """Return all features [N, D], in the order they were added."""
        self.batches = [torch.cat(self.batches)]  # the next call copies nothing
        return self.batches[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the features as an array to store in the cache."""
        return {"features": self.to_tensor().numpy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray] | None, count: int) -> Features | None:
        """Restore what `arrays` returned for `count` images; None if these arrays cannot be that."""
        x = arrays.get("features") if arrays else None
        if x is None or x.dtype != np.float32 or x.ndim != 2 or len(x) != count or not np.isfinite(x).all():
            return None
        self = cls()
        self.update(torch.from_numpy(x))
        return self
