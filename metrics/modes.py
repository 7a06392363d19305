"""Mode coverage and balance, for datasets with a classifier of modes (Metz et al. 2017, arXiv 1611.02163)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

MIN_SHARE = 0.1  # a mode counts as covered from this fraction of its frequency in the data on (our choice)


class ModeCounts:
    """Number of images per mode; images too small for the classifier are skipped."""

    input_name = "images"

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], modes: int, smallest: int) -> None:
        self.classify, self.smallest = classify, smallest
        self.counts = np.zeros(modes, int)

    def update(self, images: Tensor) -> None:
        """Add images, uint8 [N, C, H, W]."""
        if images.shape[-1] >= self.smallest:
            self.counts += np.bincount(self.classify(images.cpu().numpy()), minlength=len(self.counts))


class ModeCoverage:
    """Number of modes covered, and the divergence of their frequencies from the data's.

    Args:
        classify: maps uint8 images [N, C, H, W] to modes [N], integers from 0 to modes - 1.
        modes: number of modes.
        smallest: smallest image width, in pixels, at which `classify` works.
    """

    uses_reals = True

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], modes: int, smallest: int) -> None:
        self.accumulator_type = partial(ModeCounts, classify, modes, smallest)

    def check(self, real: int, fake: int) -> None:
        """Accept any number of images."""

    def compare(self, real: ModeCounts, fake: ModeCounts) -> dict[str, float]:
        """Return {"modes": number covered, "modes_kl": KL(generated || real) in nats}, or {} for too small images.

        A mode without real images counts as half a real image, so that the divergence stays finite.
        """
        if not (real.counts.any() and fake.counts.any()):
            return {}
        data = np.maximum(real.counts, 0.5)  # half an image at least, against division by zero
        data = data / data.sum()
        share = fake.counts / fake.counts.sum()
        present = share > 0  # 0 log 0 = 0
        return {
            "modes": int((share >= MIN_SHARE * data).sum()),
            "modes_kl": float((share[present] * np.log(share[present] / data[present])).sum()),
        }
