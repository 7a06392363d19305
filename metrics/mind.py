"""Monge Inception distance (MIND; Berthet et al. 2026, arXiv 2605.06797): a sliced Wasserstein distance of features."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

DIRECTIONS, SEED = 1000, 2020  # torch-fidelity's defaults
DIRECTIONS_AT_ONCE = 100  # 20 MB of projections for 50,000 images; our choice, results do not depend on it
SCALE = 3  # the paper's factor, times the number of dimensions, which brings MIND to the order of FID


def monge_inception_distance(x: Tensor, y: Tensor) -> float:
    """Return 3 D times the mean squared 1-D Wasserstein-2 distance between projections of x and y.

    In one dimension, the optimal transport between two samples of equal size pairs them in sorted order. So a random
    part of the larger side is used, as in torch-fidelity.

    Args:
        x, y: features [N, D] and [M, D].
    """
    generator = torch.Generator().manual_seed(SEED)
    count = min(len(x), len(y))
    x, y = (z if len(z) == count else z[torch.randperm(len(z), generator=generator)[:count]] for z in (x, y))
    directions = torch.nn.functional.normalize(torch.randn(DIRECTIONS, x.shape[1], generator=generator))
    total = 0.0
    for part in directions.split(DIRECTIONS_AT_ONCE):
        pairs = (part @ x.T).sort().values - (part @ y.T).sort().values  # [directions, count]
        total += pairs.square().sum(dtype=torch.float64).item()
    return SCALE * x.shape[1] * total / (count * DIRECTIONS)


class MIND:
    """The sliced Wasserstein-2 distance of features; see `monge_inception_distance`."""

    accumulator_type = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError for fewer than two images of either."""
        if min(real, fake) < 2:
            raise MetricError(f"MIND needs at least 2 real and 2 generated images, not {real} and {fake}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"mind": ...}; lower is better. It depends on the smaller number of images, as FID does."""
        return {"mind": monge_inception_distance(real.to_tensor(), fake.to_tensor())}
