"""Mode coverage and balance of a set whose modes a classifier can tell (Metz et al. 2017, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor

COVERED = 0.1  # of the data's share, for a mode to count


class ModeCounts:
    """How many images show each mode; images smaller than the classifier can tell are left out."""

    takes = "images"

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], modes: int, smallest: int) -> None:
        self.classify, self.smallest = classify, smallest
        self.counts = np.zeros(modes, int)

    def update(self, images: Tensor) -> None:
        """images: uint8 [N, C, H, W]."""
        if images.shape[-1] >= self.smallest:
            self.counts += np.bincount(self.classify(images.cpu().numpy()), minlength=len(self.counts))


class ModeCoverage:
    """How many modes are shown, and how evenly.

    Args:
        classify: uint8 images [N, C, H, W] -> mode [N] in 0 ... modes - 1. smallest: width it can tell modes at.
    """

    uses_reals = True

    def __init__(self, classify: Callable[[np.ndarray], np.ndarray], modes: int, smallest: int) -> None:
        self.keeps = partial(ModeCounts, classify, modes, smallest)

    def check(self, real: int, fake: int) -> None:
        pass

    def compare(self, real: ModeCounts, fake: ModeCounts) -> dict[str, float]:
        """{"modes": those with a tenth of the data's share or more, "modes_kl": KL(fake || real) in nats}, or {}.

        A mode that the real images lack counts as half an image of them.
        """
        if not (real.counts.any() and fake.counts.any()):
            return {}
        data = np.maximum(real.counts, 0.5)
        data = data / data.sum()
        share = fake.counts / fake.counts.sum()
        shown = share > 0
        return {
            "modes": int((share >= COVERED * data).sum()),
            "modes_kl": float((share[shown] * np.log(share[shown] / data[shown])).sum()),
        }
