"""Multi-scale structural similarity (MS-SSIM; Wang et al. 2003) between the images of one dataset.

Odena et al. 2017 (arXiv 1610.09585) introduced it as a measure of variation in GANs, and the PGGAN paper reports it: a
high mean over pairs says that the images are alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

WEIGHTS = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])  # exponents, finest scale first (Wang et al. 2003)
WINDOW, SIGMA = 11, 1.5  # pixels (Wang et al. 2004)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # (K1 L)^2 and (K2 L)^2 of Wang et al. 2004, for 8-bit images


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the MS-SSIM [N] of each pair of images; 1 for equal ones.

    There are five scales, each half the size of the one before. In images smaller than the 11x11 window, the window
    shrinks to the image.

    Args:
        a, b: [N, C, H, W], float, in [0, 255].
    """
    terms = []
    for _ in WEIGHTS:
        similarity, contrast = ssim(a, b)
        terms.append(contrast)
        # halve the size; in odd sizes, the last row and column are averaged by themselves
        a, b = (F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (a, b))
    terms[-1] = similarity  # luminance enters at the coarsest scale only
    # Negative terms become 0, as in the official code: they have no real power.
    return (torch.stack(terms).clamp_min(0) ** WEIGHTS.to(a.device)[:, None]).prod(dim=0)


def ssim(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the SSIM [N] (Wang et al. 2004, equation 13) and its contrast and structure factors alone [N].

    Args:
        a, b: [N, C, H, W], float, in [0, 255].
    """
    channels = a.shape[1]
    kernels = [gaussian(side).to(a) for side in a.shape[2:]]
    middle = 127.5  # subtracting it leaves the variances as they are, but they lose fewer digits to cancellation

    # Separable: rows, then columns. Without padding, so only windows inside the image count.
    def smooth(x: Tensor) -> Tensor:
        x = F.conv2d(x, kernels[0].view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(x, kernels[1].view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    # "variances" is the sum of a's and b's, the only form in which SSIM needs them
    a, b = a - middle, b - middle
    mean_a, mean_b = smooth(a), smooth(b)
    covariance = smooth(a * b) - mean_a * mean_b
    variances = smooth(a * a + b * b) - mean_a.square() - mean_b.square()
    contrast = (2 * covariance + C2) / (variances + C2)
    mean_a, mean_b = mean_a + middle, mean_b + middle
    luminance = (2 * mean_a * mean_b + C1) / (mean_a.square() + mean_b.square() + C1)
    return (luminance * contrast).mean(dim=(1, 2, 3)), contrast.mean(dim=(1, 2, 3))


def gaussian(side: int) -> Tensor:
    """Return the window along one axis, float64 of sum 1.

    In images smaller than 11 pixels it is as wide as the image, with sigma in proportion.
    """
    size = min(WINDOW, side)
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    window = torch.exp(-0.5 * (x / (SIGMA * size / WINDOW)) ** 2)
    return window / window.sum()


class PairSimilarities:
    """Sum of the MS-SSIM of the image pairs (0, 1), (2, 3), ...

    Attributes:
        total: the sum.
        pairs: number of pairs in it.
        left: images that wait for their partner, [0 or 1, C, H, W].
    """

    input_name = "images"

    def __init__(self) -> None:
        self.total, self.pairs = 0.0, 0
        self.left: Tensor | None = None

    def update(self, images: Tensor) -> None:
        """Add images, uint8 [N, C, H, W]."""
        # pairs run across batches, so that the result does not depend on how images are batched
        images = images.float() if self.left is None else torch.cat([self.left, images.float()])
        count = len(images) // 2
        self.left = images[2 * count :]
        if count:
            self.total += ms_ssim(images[0 : 2 * count : 2], images[1 : 2 * count : 2]).double().sum().item()
            self.pairs += count


class MSSSIM:
    """Mean MS-SSIM over consecutive pairs of generated images, and of real ones for comparison."""

    accumulator_type = PairSimilarities
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Raise MetricError for fewer than two images of either kind."""
        if min(real, fake) < 2:
            raise MetricError(f"MS-SSIM needs at least 2 real and 2 generated images, not {real} and {fake}")

    def compare(self, real: PairSimilarities, fake: PairSimilarities) -> dict[str, float]:
        """Return {"msssim": ..., "msssim_real": ...}; far above the real images' value means too little variation."""
        return {"msssim": fake.total / fake.pairs, "msssim_real": real.total / real.pairs}
