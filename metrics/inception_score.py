"""Inception Score (IS; Salimans et al. 2016, arXiv 1606.03498, section 4)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SPLITS = 10  # as in the authors' code, and in published numbers since
SEED = 2020  # of the shuffle: torch-fidelity's default
MIN_IMAGES = 1000  # below this, a split has fewer than 100 images for 1008 classes


class Logits:
    """All logits without bias: 1008 float32 numbers (4 KiB) per image."""

    input_name = "logits"

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, logits: Tensor) -> None:
        """Add logits [N, 1008]."""
        self.batches.append(logits.float().cpu())


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Return the mean and the standard deviation (biased) over splits of exp(E KL(p(y|x) || p(y))).

    The images are shuffled first, as in torch-fidelity, because images in a folder are often sorted by class.

    Args:
        logits: [N, classes].
        splits: number of equal parts; with fewer images, each one is a part.
    """
    n = len(logits)
    splits = min(splits, n)
    shuffled = logits[torch.from_numpy(np.random.RandomState(SEED).permutation(n))].double().log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = shuffled[i * n // splits : (i + 1) * n // splits]
        # p(y) of this split, in logarithms: the mean of p(y|x)
        marginal = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


class IS:
    """See `inception_score`; the real images are not used."""

    accumulator_type = Logits
    uses_reals = False

    def check(self, real: int, fake: int) -> str | None:
        """Return a warning for few generated images."""
        if fake < MIN_IMAGES:
            return f"IS of {fake} images is biased downward; compare it only with scores of the same number of images"
        return None

    def compare(self, real: Logits | None, fake: Logits) -> dict[str, float]:
        """Return {"is": mean over splits, "is_std": standard deviation}; higher is better."""
        mean, deviation = inception_score(torch.cat(fake.batches))
        return {"is": mean, "is_std": deviation}
