"""Inception Score (Salimans et al. 2016, equation 1)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SPLITS = 10
SEED = 2020
FEW = 1000


class Logits:
    """Logits without bias, kept: 1008 float32 numbers an image."""

    takes = "logits"

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, logits: Tensor) -> None:
        """logits: [N, 1008]."""
        self.batches.append(logits.float().cpu())


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and (biased) deviation over `splits` of exp(E KL(p(y|x) || p(y))), from logits [N, classes].

    The images are shuffled first, as torch-fidelity does it: those of a folder may stand in order of their classes.
    Fewer images than splits are a split each.
    """
    n = len(logits)
    splits = min(splits, n)
    shuffled = logits[torch.from_numpy(np.random.RandomState(SEED).permutation(n))].double().log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = shuffled[i * n // splits : (i + 1) * n // splits]
        marginal = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


class IS:
    """See `inception_score`; the real images play no part."""

    keeps = Logits
    uses_reals = False

    def check(self, real: int, fake: int) -> str | None:
        if fake < FEW:
            return f"IS of {fake} images is far below that of many: compare it only with scores of as many images"
        return None

    def compare(self, real: Logits | None, fake: Logits) -> dict[str, float]:
        """{"is": ..., "is_std": ...}."""
        mean, deviation = inception_score(torch.cat(fake.batches))
        return {"is": mean, "is_std": deviation}
