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
        subset_size: real images, and generated images, per subset; fewer if there are not as many. The mean's
            expectation does not depend on it.
    """

    accumulator_type = Features
    uses_reals = True

    def __init__(self, subset_size: int = SUBSET_SIZE):
        self.subset_size = subset_size

    def choose_subset_size(self, real: int, fake: int) -> int:
        """Return the size of the subsets for these numbers of images."""
        return min(self.subset_size, real, fake)

    def check(self, real: int, fake: int) -> str | None:
        """Return a warning for fewer images than a subset has. Raises MetricError for fewer than two of either."""
        size = self.choose_subset_size(real, fake)
        if size < 2:
            raise MetricError(f"KID needs at least 2 real and 2 generated images, not {real} and {fake}")
        if size < self.subset_size:
            return (
                f"KID uses subsets of {size} images instead of {self.subset_size}, because it compares {real} real and "
                f"{fake} generated ones"
            )
        return None

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"kid": mean, "kid_std": standard deviation}, not multiplied by 1000; lower is better.

        There is no deviation if every subset would be all images of both sides.
        """
        x, y = fake.to_tensor(), real.to_tensor()
        size = self.choose_subset_size(len(y), len(x))
        if size == len(x) == len(y):
            return {"kid": polynomial_mmd(x, y)}
        # the same draws as torch-fidelity's: generated images first, then real ones
        rng = np.random.RandomState(SEED)
        distances = []
        for _ in range(SUBSETS):
            chosen_fake, chosen_real = (
                torch.from_numpy(rng.choice(len(features), size, replace=False)) for features in (x, y)
            )
            distances.append(polynomial_mmd(x[chosen_fake], y[chosen_real]))
        return {"kid": float(np.mean(distances)), "kid_std": float(np.std(distances))}
