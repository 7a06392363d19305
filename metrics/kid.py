"""Kernel Inception distance (KID; Bińkowski et al. 2018, arXiv 1801.01401, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's defaults


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under k(a, b) = (a.b / D + 1)^3 (paper, equation 4).

    It can be negative, because its mean is 0 if x and y come from the same distribution.

    Args:
        x, y: [n, D], with the same n.
    """
    n = len(x)
    (within_x, x_self), (within_y, y_self), (between, _) = kernel_sums(x, x), kernel_sums(y, y), kernel_sums(x, y)
    # Unbiased: pairs of a sample with itself are excluded.
    return (within_x - x_self + within_y - y_self) / (n * (n - 1)) - 2 * between / n**2


def kernel_sums(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return the sums of (x_i.y_j / D + 1)^3 over all pairs, and over the pairs i = j, accumulated in float64."""
    k = (x @ y.T).div_(x.shape[1]).add_(1)  # [n, n]
    k = k.square().mul_(k)
    return k.sum(dtype=torch.float64).item(), k.diagonal().sum(dtype=torch.float64).item()


class KID:
    """Mean and standard deviation of `polynomial_mmd` over random subsets, drawn without replacement.

    Args:
        subset_size: real images, and generated images, per subset. The mean's expectation does not depend on it.
    """

    accumulator_type = Features
    uses_reals = True

    def __init__(self, subset_size: int = SUBSET_SIZE):
        self.subset_size = subset_size

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError for fewer images than a subset has."""
        if min(real, fake) < self.subset_size:
            raise MetricError(
                f"KID needs at least {self.subset_size} real and generated images, the size of its subsets, not {real} "
                f"and {fake}; use more images, or python -m metrics with --kid-subset-size {min(real, fake)}"
            )

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"kid": mean, "kid_std": standard deviation}, not multiplied by 1000; lower is better."""
        # the same draws as torch-fidelity's: generated images first, then real ones
        rng = np.random.RandomState(SEED)
        distances = []
        for _ in range(SUBSETS):
            chosen_fake, chosen_real = (
                torch.from_numpy(rng.choice(len(features), self.subset_size, replace=False))
                for features in (fake.to_tensor(), real.to_tensor())
            )
            distances.append(polynomial_mmd(fake.to_tensor()[chosen_fake], real.to_tensor()[chosen_real]))
        return {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}
