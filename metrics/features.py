"""What is kept of Inception's features of a set of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MetricError


class FeatureStatistics:
    """Count, sum and sum of outer products of features, accumulated in float64.

    Attributes:
        count: features seen.
    """

    takes = "features"
    name = "statistics"

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

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean [D] and unbiased covariance [D, D]. Raises MetricError for fewer than two images."""
        if self.count < 2:
            raise MetricError(f"FID needs at least 2 images of each kind, not {self.count}")
        mean = self.total / self.count
        return mean, (self.outer - self.count * torch.outer(mean, mean)) / (self.count - 1)

    def arrays(self) -> dict[str, np.ndarray]:
        return {"count": np.array(self.count), "total": self.total.numpy(), "outer": self.outer.numpy()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> FeatureStatistics:
        self = cls()
        self.count = int(arrays["count"])
        self.total, self.outer = torch.from_numpy(arrays["total"]), torch.from_numpy(arrays["outer"])
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
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> Features:
        self = cls()
        self.update(torch.from_numpy(arrays["features"]))
        return self
