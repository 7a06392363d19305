"""FID extrapolated to infinitely many generated images (Chong & Forsyth 2020, "Effectively unbiased FID")."""

from __future__ import annotations

import numpy as np
import torch

from .errors import MetricError
from .features import Features, FeatureStatistics
from .fid import square_root

POINTS = 15
SMALLEST_SHARE = 0.1
SEED = 2020
MINIMUM = 1000


class FIDInfinity:
    """The intercept at 1/n = 0 of a line through the FIDs of n generated images, n from N/10 to N in 15 even steps.

    The images of each n are drawn without repetition. The real side stays as it is, and so does its own share of the
    bias: give it as many images as there are.
    """

    keeps = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        if min(real, fake) < MINIMUM:
            raise MetricError(f"fid_inf needs at least {MINIMUM} images of each kind, not {min(real, fake)}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """{"fid_inf": ..., "fid_inf_error": standard error of the intercept}."""
        sizes = np.linspace(SMALLEST_SHARE * len(fake.all()), len(fake.all()), POINTS).astype(int)
        intercept, error = line_at_zero(1 / sizes, fids_of_subsets(real, fake, sizes))
        return {"fid_inf": intercept, "fid_inf_error": error}


def fids_of_subsets(real: Features, fake: Features, sizes: np.ndarray) -> list[float]:
    """FID of each number of generated images. With C1 = A A^T of the reals, x A has the covariance A^T C2 A."""
    statistics = FeatureStatistics()
    statistics.update(real.all())
    real_mean, real_covariance = statistics.moments()
    root = square_root(real_covariance)
    rng = np.random.default_rng(SEED)
    features = fake.all().double()
    turned = features @ root
    fids = []
    for size in sizes:
        chosen = torch.from_numpy(rng.permutation(len(features))[:size])
        x, y = features[chosen], turned[chosen]
        difference = (real_mean - x.mean(dim=0)).square().sum()
        roots = torch.linalg.eigvalsh(covariance_or_gram(y)).clamp_min(0).sqrt()
        fids.append((difference + real_covariance.trace() + x.var(dim=0).sum() - 2 * roots.sum()).item())
    return fids


def covariance_or_gram(x: torch.Tensor) -> torch.Tensor:
    """Whichever is smaller of the covariance [D, D] and its Gram matrix [N, N]: their other eigenvalues are 0."""
    centred = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return centred.T @ centred if len(x) > x.shape[1] else centred @ centred.T


def line_at_zero(x: np.ndarray, y: list[float]) -> tuple[float, float]:
    """Intercept of the least-squares line, and its standard error."""
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, np.asarray(y), rcond=None)
    variance = residual.sum() / (len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(solution[0]), float(variance**0.5)
