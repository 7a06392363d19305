"""Inception Score (Salimans et al. 2016, equation 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

SPLITS = 10


class Logits:
    """Logits without bias, kept: 1008 numbers an image."""

    def __init__(self) -> None:
        self.batches: list[Tensor] = []

    def update(self, logits: Tensor) -> None:
        """logits: [N, 1008]."""
        self.batches.append(logits.cpu().double())


def inception_score(logits: Tensor, splits: int = SPLITS) -> tuple[float, float]:
    """Mean and (biased) deviation over `splits` of exp(E KL(p(y|x) || p(y))), from logits [N, classes].

    Fewer images than splits are a split each.
    """
    scores = []
    for part in logits.log_softmax(dim=1).tensor_split(min(splits, len(logits))):
        marginal = part.logsumexp(dim=0) - math.log(len(part))
        scores.append((part.exp() * (part - marginal)).sum(dim=1).mean().exp())
    scores = torch.stack(scores)
    return scores.mean().item(), scores.std(correction=0).item()


class IS:
    """See `inception_score`; the real images play no part."""

    needs = "logits"
    accumulator = Logits

    def compare(self, real: Logits, fake: Logits) -> dict[str, float]:
        mean, deviation = inception_score(torch.cat(fake.batches))
        return {"is": mean, "is_std": deviation}
