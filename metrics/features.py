"""What is kept of Inception's features of a set of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MetricError

DIMENSIONS = 2048  # of pool3


class FeatureStatistics:
    """Count, sum and sum of outer products of features, accumulated in float64.

    Attributes:
        count: features seen.
    """

    takes = "features"
    name = "statistics"

    def __init__(self) -> None:
        self.count = 0
        self.origin = self.total = self.outer = torch.zeros(0).double()

    def update(self, features: Tensor) -> None:
        """features: [N, D]."""
        x = features.cpu().double()
        if not self.count:
            self.origin = x[0].clone()  # sums about the first features lose fewer digits
            self.total = x.new_zeros(x.shape[1])
            self.outer = x.new_zeros(x.shape[1], x.shape[1])
        x = x - self.origin
        self.count += len(x)
        self.total += x.sum(dim=0)
        self.outer += x.T @ x

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]. Raises MetricError for fewer than two images."""
        if self.count < 2:
            raise MetricError(f"FID needs at least 2 images of each kind, not {self.count}")
        mean = self.total / self.count
        covariance = (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        return self.origin + mean, covariance

    def arrays(self) -> dict[str, np.ndarray]:
        return {"count": np.array(self.count)} | {n: getattr(self, n).numpy() for n in ("origin", "total", "outer")}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray] | None, count: int) -> FeatureStatistics | None:
        """Of so many images, or None where the arrays are not what `arrays` gives of so many."""
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
    """All features, float32: 8 KiB an image."""

    takes = "features"
    name = "features"

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """features: [N, D]."""
        self.batches.append(features.float().cpu())

    def all(self) -> Tensor:
        """[N, D] in the order seen."""
        self.batches = [torch.cat(self.batches)]
        return self.batches[0]

    def arrays(self) -> dict[str, np.ndarray]:
        return {"features": self.all().numpy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray] | None, count: int) -> Features | None:
        """Of so many images, or None where the arrays are not what `arrays` gives of so many."""
        x = arrays.get("features") if arrays else None
        if x is None or x.dtype != np.float32 or x.ndim != 2 or len(x) != count or not np.isfinite(x).all():
            return None
        self = cls()
        self.update(torch.from_numpy(x))
        return self
