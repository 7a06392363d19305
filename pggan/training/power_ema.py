"""Averages of G's weights whose length can be chosen after training (post-hoc EMA).

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", arXiv 2312.02696, section 3
and appendix C. A power-function average at time t weights the network at time s by (gamma + 1) s^gamma / t^(gamma + 1).
Its length is described by the standard deviation of that profile as a fraction of t: 0.10 averages over roughly the
last 10 to 20% of the run, however long it was. Training keeps two such averages and saves snapshots of them; any other
length is a linear combination of the snapshots.

Time is counted in images, so that batches of different size weigh what they should. The blocks of later stages do not
change until they are trained, so a long average at the end of a run reaches back into the stage before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

STDS = (0.05, 0.10)  # of the averages that training keeps; the paper's choice (section 3.2)
MIN_STD, MAX_STD = 0.005, 0.25  # lengths that snapshots can represent if there are many; at 0.289 gamma is 0


class Snapshot(NamedTuple):
    """A stored average: its length, and the images that the run had seen when it was taken, from its start on."""

    std: float
    images: int


def compute_exponent(std: float) -> float:
    """Return gamma for a relative standard deviation in (0, 0.288].

    std^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (equation 2 of section 3.1, solved as in appendix C.1).
    """
    t = std**-2
    return float(np.roots([1, 7, 16 - t, 12 - t]).real.max())


def compute_decays(images: int, added: int) -> list[float]:
    """Return, for each of STDS, the decay of an update after `images` images of the run, `added` since the last update.

    ((t - dt) / t)^(gamma + 1), equation 1 of section 3.1 with images as the time. 0 at the first update.
    """
    return [((images - added) / images) ** (compute_exponent(std) + 1) for std in STDS]


@torch.no_grad()
def update_averages(averages: Sequence[nn.Module], network: nn.Module, decays: Tensor) -> None:
    """Update power-function averages of a network in place; decays: [len(averages)], on its device."""
    for average, decay in zip(averages, decays, strict=True):
        ours, theirs = collect_tensors(average), collect_tensors(network)
        torch._foreach_mul_(ours, decay)
        torch._foreach_add_(ours, torch._foreach_mul(theirs, 1 - decay))


def collect_tensors(network: nn.Module) -> list[Tensor]:
    """Return what is averaged: parameters and floating-point buffers."""
    return [tensor.detach() for tensor in network.state_dict().values() if tensor.is_floating_point()]


def round_to_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in float16, the precision of stored snapshots (section 3.2); integers stay."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def solve_weights(snapshots: Sequence[Snapshot], target: Snapshot) -> tuple[np.ndarray, float]:
    """Return the weight of each snapshot [n] in the best approximation of the target average, and its error.

    The profiles are functions of time. The weights minimize the squared difference of their sum to the target's profile
    (appendix C.2), and are then divided by their sum, so that constant weights are reproduced. The error is the norm
    of the remaining difference, relative to the target's. Snapshots from after the target are not allowed.
    """
    gram = np.array([[compute_inner_product(a, b) for b in snapshots] for a in snapshots])
    right = np.array([compute_inner_product(a, target) for a in snapshots])
    weights = np.linalg.lstsq(gram, right, rcond=1e-12)[0]
    weights /= weights.sum()
    square = compute_inner_product(target, target)
    difference = weights @ gram @ weights - 2 * weights @ right + square
    return weights, float(np.sqrt(max(difference, 0.0) / square))


def compute_inner_product(a: Snapshot, b: Snapshot) -> float:
    """Return the integral over time of the product of two averages' profiles (appendix C.2, in closed form)."""
    if a.images > b.images:
        a, b = b, a
    first, second = compute_exponent(a.std), compute_exponent(b.std)
    # the product vanishes after a's time: (g1 + 1)(g2 + 1) a^(g1 + g2 + 1) / ((g1 + g2 + 1) a^(g1 + 1) b^(g2 + 1))
    ratio = (a.images / b.images) ** second
    return (first + 1) * (second + 1) * ratio / ((first + second + 1) * b.images)
