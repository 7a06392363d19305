"""FID extrapolated to infinitely many generated images (FID-infinity; Chong & Forsyth 2020, arXiv 1911.07023)."""

from __future__ import annotations

import numpy as np
import torch

from .errors import MetricError
from .features import Features, FeatureStatistics
from .fid import square_root

POINTS = 15  # sizes at which FID is computed, as in Chong & Forsyth's code
SMALLEST_SHARE = 0.1  # of the generated images, for the first point
SEED = 2020  # for drawing subsets: torch-fidelity's default seed, used by all metrics in here
MINIMUM = 1000  # images; with fewer, the smallest subset would have fewer than 100


class FIDInfinity:
    """Intercept at 1/n = 0 of a line fitted to the FIDs of n generated images, for 15 values of n from N/10 to N.

    FID's bias is proportional to 1/n to first order. The images of each n are drawn without replacement. The real
    images are always used in full, so their part of the bias remains: use as many of them as there are.
    """

    accumulator_type = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError for fewer than MINIMUM images."""
        if min(real, fake) < MINIMUM:
            raise MetricError(f"fid_inf needs at least {MINIMUM} real and generated images, not {real} and {fake}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"fid_inf": ..., "fid_inf_error": standard error of the intercept}."""
        sizes = np.linspace(SMALLEST_SHARE * len(fake.to_tensor()), len(fake.to_tensor()), POINTS).astype(int)
        intercept, error = fit_intercept(1 / sizes, compute_subset_fids(real, fake, sizes))
        return {"fid_inf": intercept, "fid_inf_error": error}


def compute_subset_fids(real: Features, fake: Features, sizes: np.ndarray) -> list[float]:
    """Return the FID of a random subset of generated images for each of `sizes`.

    FID needs the eigenvalues of A^T C2 A, with the reals' covariance C1 = A A^T (see `trace_of_product_root`). That is
    the covariance of x A for features x of the fakes, so x A is computed once for all sizes.
    """
    statistics = FeatureStatistics()
    statistics.update(real.to_tensor())
    real_mean, real_covariance = statistics.moments()
    root = square_root(real_covariance)
    rng = np.random.default_rng(SEED)
    features = fake.to_tensor().double()
    turned = features @ root  # [M, rank]
    fids = []
    for size in sizes:
        chosen = torch.from_numpy(rng.permutation(len(features))[:size])
        x, y = features[chosen], turned[chosen]  # [size, D], [size, rank]
        difference = (real_mean - x.mean(dim=0)).square().sum()
        roots = torch.linalg.eigvalsh(covariance_or_gram(y)).clamp_min(0).sqrt()
        fids.append((difference + real_covariance.trace() + x.var(dim=0).sum() - 2 * roots.sum()).item())
    return fids


def covariance_or_gram(x: torch.Tensor) -> torch.Tensor:
    """Return the covariance [D, D] of x [N, D], or its Gram matrix [N, N] if that is smaller.

    Their nonzero eigenvalues are the same, and eigenvalues take cubic time.
    """
    centered = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return centered.T @ centered if len(x) > x.shape[1] else centered @ centered.T


def fit_intercept(x: np.ndarray, y: list[float]) -> tuple[float, float]:
    """Return the intercept of the least-squares line through (x, y), and the intercept's standard error."""
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, residual, *_ = np.linalg.lstsq(design, np.asarray(y), rcond=None)
    # squared standard error: residual variance (two parameters fitted) times the design's [0, 0] element
    variance = residual.sum() / (len(x) - 2) * np.linalg.inv(design.T @ design)[0, 0]
    return float(solution[0]), float(variance**0.5)
