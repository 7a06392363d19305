"""Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020) of pool3 features."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

PRECISION_NEIGHBOUR = 3
DENSITY_NEIGHBOUR = 5
DISTANCES_AT_ONCE = 1 << 25


def distances(x: Tensor, y: Tensor):
    """Euclidean distances of x to y, some rows of x at a time: pairs of a slice of x and [rows, len(y)]."""
    rows = max(1, DISTANCES_AT_ONCE // len(y))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        yield part, torch.cdist(x[part], y)


def radii(x: Tensor) -> Tensor:
    """[2, N]: distance of each point to its 3rd and to its 5th nearest neighbour in x, itself left out."""
    result = torch.empty(2, len(x))
    for part, d in distances(x, x):
        nearest = d.topk(DENSITY_NEIGHBOUR + 1, largest=False).values
        result[:, part] = nearest[:, [PRECISION_NEIGHBOUR, DENSITY_NEIGHBOUR]].T
    return result


def precision_recall_density_coverage(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Of features [N, D] and [M, D].

    precision: share of fakes inside the ball of any real, a ball reaching to its 3rd neighbour among its own kind.
    recall: share of reals inside the ball of any fake. density: mean number of reals' balls (5th neighbour) around a
    fake, over 5. coverage: share of reals with a fake inside their ball (5th neighbour).
    """
    (real_3, real_5), (fake_3, _) = radii(real), radii(fake)
    inside_real, density, recalled, covered = 0, 0, 0, 0
    nearest_fake = torch.full((len(real),), torch.inf)
    for _, d in distances(fake, real):
        inside_real += (d <= real_3).any(dim=1).sum().item()
        density += (d <= real_5).sum().item()
        nearest_fake = torch.minimum(nearest_fake, d.amin(dim=0))
    covered = (nearest_fake <= real_5).sum().item()
    for _, d in distances(real, fake):
        recalled += (d <= fake_3).any(dim=1).sum().item()
    return {
        "precision": inside_real / len(fake),
        "recall": recalled / len(real),
        "density": density / (DENSITY_NEIGHBOUR * len(fake)),
        "coverage": covered / len(real),
    }


class PRDC:
    """See `precision_recall_density_coverage`."""

    keeps = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        if min(real, fake) <= DENSITY_NEIGHBOUR:
            raise MetricError(f"prdc needs more than {DENSITY_NEIGHBOUR} images of each kind, not {min(real, fake)}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        return precision_recall_density_coverage(real.all(), fake.all())
