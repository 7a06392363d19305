"""Precision, recall, density and coverage of generated images.

Precision and recall are from Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage from Naeem et al. 2020
(arXiv 2002.09797). All four use Inception's pool3 features here. Kynkäänniemi et al. use VGG-16's, so their numbers
cannot be compared with these.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import MetricError
from .features import Features

PRECISION_NEIGHBOR = 3  # k of Kynkäänniemi et al., section 2
DENSITY_NEIGHBOR = 5  # k of Naeem et al., section 3
MAX_DISTANCES = 1 << 25  # 128 MiB of float32; all distances of 50,000 images to each other would be 9 GiB


def distances(x: Tensor, y: Tensor):
    """Yield slices of x's rows with their Euclidean distances to all of y, [rows, len(y)].

    A slice has at most MAX_DISTANCES distances.
    """
    rows = max(1, MAX_DISTANCES // len(y))
    for start in range(0, len(x), rows):
        part = slice(start, min(start + rows, len(x)))
        yield part, torch.cdist(x[part], y)


def neighbor_radii(x: Tensor) -> Tensor:
    """Return the distance of each point of x to its 3rd and to its 5th nearest neighbor in x, [2, N]."""
    result = torch.empty(2, len(x))
    for part, d in distances(x, x):
        # One more than k: each point's nearest is itself, at distance 0, so index k is the k-th neighbor.
        nearest = d.topk(DENSITY_NEIGHBOR + 1, largest=False).values
        result[:, part] = nearest[:, [PRECISION_NEIGHBOR, DENSITY_NEIGHBOR]].T
    return result


def precision_recall_density_coverage(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Return the four metrics of real features [N, D] and generated features [M, D].

    The k-ball of a point reaches to its k-th nearest neighbor among points of its own kind.

    - precision: fraction of fakes inside the 3-ball of any real (Kynkäänniemi et al., equation 2).
    - recall: fraction of reals inside the 3-ball of any fake (same equation).
    - density: number of reals' 5-balls that contain a fake, averaged over the fakes and divided by 5 (Naeem et al.,
      section 3.2).
    - coverage: fraction of reals with a fake in their 5-ball (same section).
    """
    (real_3, real_5), (fake_3, _) = neighbor_radii(real), neighbor_radii(fake)
    # counts so far, over slices of fakes and then of reals
    inside_real, density, recalled, covered = 0, 0, 0, 0
    nearest_fake = torch.full((len(real),), torch.inf)
    for _, d in distances(fake, real):  # d: [rows, N]
        inside_real += (d <= real_3).any(dim=1).sum().item()
        density += (d <= real_5).sum().item()
        nearest_fake = torch.minimum(nearest_fake, d.amin(dim=0))
    covered = (nearest_fake <= real_5).sum().item()
    for _, d in distances(real, fake):  # d: [rows, M]
        recalled += (d <= fake_3).any(dim=1).sum().item()
    return {
        "precision": inside_real / len(fake),
        "recall": recalled / len(real),
        "density": density / (DENSITY_NEIGHBOR * len(fake)),
        "coverage": covered / len(real),
    }


class PRDC:
    """Precision, recall, density and coverage; see `precision_recall_density_coverage`."""

    accumulator_type = Features
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError if a point has no 5th neighbor."""
        if min(real, fake) <= DENSITY_NEIGHBOR:
            least = DENSITY_NEIGHBOR + 1
            raise MetricError(f"prdc needs at least {least} real and generated images, not {real} and {fake}")

    def compare(self, real: Features, fake: Features) -> dict[str, float]:
        """Return {"precision", "recall", "density", "coverage"}: higher is better; all but density are in [0, 1]."""
        return precision_recall_density_coverage(real.to_tensor(), fake.to_tensor())
