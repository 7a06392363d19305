"""Multi-scale structural similarity of pairs of images (Wang et al. 2003): the paper's measure of variation.

Taken of pairs within one set (Karras et al. 2018, section 5; Odena et al. 2017): high means that the images are alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

WEIGHTS = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """[N] of images [N, C, H, W] in [0, 255]; 1 for equal images.

    Five scales, each half of the one above; where an image is smaller than the window of 11, the window shrinks to it.
    """
    terms = []
    for _ in WEIGHTS:
        similarity, contrast = ssim(a, b)
        terms.append(contrast)
        a, b = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (a, b))
    terms[-1] = similarity
    return (torch.stack(terms).clamp_min(0) ** WEIGHTS.to(a.device)[:, None]).prod(dim=0)


def ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Structural similarity [N] and its contrast-and-structure factor [N] (Wang et al. 2004, equations 12 and 13)."""
    channels = a.shape[1]
    kernels = [gaussian(side).to(a) for side in a.shape[2:]]
    middle = 127.5  # variances do not depend on it, and lose fewer digits with it

    def smooth(x: Tensor) -> Tensor:
        x = F.conv2d(x, kernels[0].view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, kernels[1].view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    a, b = a - middle, b - middle
    mean_a, mean_b = smooth(a), smooth(b)
    covariance = smooth(a * b) - mean_a * mean_b
    variances = smooth(a * a + b * b) - mean_a.square() - mean_b.square()
    contrast = (2 * covariance + C2) / (variances + C2)
    mean_a, mean_b = mean_a + middle, mean_b + middle
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def gaussian(side: int) -> Tensor:
    """The window along one axis, as wide as the image where that is smaller, its sigma in proportion."""
    size = min(WINDOW, side)
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-0.5 * (x / (SIGMA * size / WINDOW)) ** 2)
    return window / window.sum()


class PairSimilarities:
    """Sum of the MS-SSIM of images (0, 1), (2, 3), ... of a set."""

    takes = "images"

    def __init__(self) -> None:
        self.total, self.pairs = 0.0, 0
        self.left: Tensor | None = None

    def update(self, images: Tensor) -> None:
        """images: uint8 [N, C, H, W]."""
        images = images.float() if self.left is None else torch.cat([self.left, images.float()])
        count = len(images) // 2
        self.left = images[2 * count :]
        if count:
            self.total += ms_ssim(images[0 : 2 * count : 2], images[1 : 2 * count : 2]).double().sum().item()
            self.pairs += count


class MSSSIM:
    """Mean over consecutive pairs of the generated images, and of the real ones for comparison."""

    keeps = PairSimilarities
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        if min(real, fake) < 2:
            raise MetricError(f"MS-SSIM needs at least 2 images of each kind, not {min(real, fake)}")

    def compare(self, real: PairSimilarities, fake: PairSimilarities) -> dict[str, float]:
        """{"msssim": ..., "msssim_real": ...}."""
        return {"msssim": fake.total / fake.pairs, "msssim_real": real.total / real.pairs}
