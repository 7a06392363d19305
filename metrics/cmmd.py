"""CLIP maximum mean discrepancy (CMMD; Jayasumana et al. 2024, arXiv 2401.09603)."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

SIGMA, SCALE = 10.0, 1000.0  # kernel width and factor of the paper (section 4) and its code
MAX_PAIRS = 1 << 25  # 128 MiB of float32 at a time; 50,000 images have 2.5e9 pairs


def gaussian_mmd(x: Tensor, y: Tensor, sigma: float = SIGMA) -> float:
    """Return the squared maximum mean discrepancy under exp(-|a - b|^2 / (2 sigma^2)), biased, as in the paper's code.

    Args:
        x, y: [N, D] and [M, D].
    """
    return mean_kernel(x, x, sigma) + mean_kernel(y, y, sigma) - 2 * mean_kernel(x, y, sigma)


def mean_kernel(x: Tensor, y: Tensor, sigma: float) -> float:
    """Return the mean of exp(-|a - b|^2 / (2 sigma^2)) over all pairs of a in x and b in y."""
    total = 0.0
    for part in x.double().split(max(MAX_PAIRS // (2 * len(y)), 1)):  # float64: the results are differences of means
        total += torch.cdist(part, y.double()).square_().div_(-2 * sigma**2).exp_().sum().item()
    return total / (len(x) * len(y))


class CMMD:
    """1000 times the `gaussian_mmd` of CLIP features of length 1.

    The paper's features are those of CLIP ViT-L/14 at 336 pixels, `--features clip-l`.
    """

    accumulator_type = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError for fewer than two images of either."""
        if min(real, fake) < 2:
            raise MetricError(f"CMMD needs at least 2 real and 2 generated images, not {real} and {fake}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"cmmd": ...}; lower is better."""
        x, y = (torch.nn.functional.normalize(side.to_tensor()) for side in (real, fake))
        return {"cmmd": SCALE * gaussian_mmd(x, y)}
