"""Kernel Inception distance (Bińkowski et al. 2018, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

SUBSETS = 100
SUBSET_SIZE = 1000
SEED = 2020


def polynomial_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of x and y [n, D], both of n, under k(a, b) = (a.b / D + 1)^3.

    Can be negative: its mean is 0 where both come from one distribution.
    """
    n = len(x)
    (within_x, x_self), (within_y, y_self), (between, _) = kernel_sums(x, x), kernel_sums(y, y), kernel_sums(x, y)
    return (within_x - x_self + within_y - y_self) / (n * (n - 1)) - 2 * between / n**2


def kernel_sums(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Sum over all pairs, and over the pairs (i, i), of (x_i.y_j / D + 1)^3, summed in float64."""
    k = (x @ y.T).div_(x.shape[1]).add_(1)
    k = k.square().mul_(k)
    return k.sum(dtype=torch.float64).item(), k.diagonal().sum(dtype=torch.float64).item()


class KID:
    """Mean and deviation of `polynomial_mmd` over random subsets without repetition.

    Args:
        subset_size: images of each kind in a subset. The mean's expectation does not depend on it.
    """

    keeps = Features
    uses_reals = True

    def __init__(self, subset_size: int = SUBSET_SIZE):
        self.subset_size = subset_size

    def check(self, real: int, fake: int) -> None:
        if min(real, fake) < self.subset_size:
            raise MetricError(
                f"kid needs at least {self.subset_size} images of each kind, the size of its subsets "
                f"(--kid-subset-size of python -m metrics), not {min(real, fake)}"
            )

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """{"kid": ..., "kid_std": ...}."""
        rng = np.random.RandomState(SEED)  # the draws of torch-fidelity, generated images first
        distances = []
        for _ in range(SUBSETS):
            chosen_fake, chosen_real = (
                torch.from_numpy(rng.choice(len(features), self.subset_size, replace=False))
                for features in (fake.all(), real.all())
            )
            distances.append(polynomial_mmd(fake.all()[chosen_fake], real.all()[chosen_real]))
        return {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}
