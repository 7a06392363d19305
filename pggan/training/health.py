"""Checks of each tick for common failures: mode collapse, overfitting, vanishing or exploding gradients, oscillation.

Each check looks at the ticks of the current stage and reports a failure only if it persists: one tick on its own says
little. The thresholds below are rules of thumb of ours, not from a paper; they name the collapsed runs of
docs/experiments.md (the hybrid, the fully connected GAN).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pggan.datasets import MIN_CLASSIFIED_SIDE, classify
from pggan.metrics.msssim import ms_ssim

Line = Mapping[str, Any]  # one line of log.jsonl
MIN_TICKS = 5  # ticks for which a failure must persist, so that a fluctuation at the start of a fade does not count
MAX_SIDE = 64  # pixels per side at which images are compared, which bounds the cost, O(N^2 r^2)
FEW_MODES = 0.25  # fraction of the real images' modes; a young but healthy generator shows a third
LITTLE_VARIETY = 0.35  # nearest-neighbor distance divided by that of real images; 1 is as varied as real images
MEMORIZED = (
    0.7  # overfitting signal; 1 is full memorization, and ADA aims at 0.5 to 0.6 (Karras et al. 2020, section 3)
)
VANISHED, EXPLODED = 0.01, 100.0  # gradient norm divided by the stage's median: two orders of magnitude either way


def measure_variety(fakes: Tensor, reals: Tensor, modes: bool) -> dict[str, float]:
    """Measure how varied the images of a sample grid are, compared with as many real images.

    Args:
        fakes, reals: uint8 [N, C, r, r]. modes: whether both come from the embedded dataset, whose modes are known.

    Returns:
        "variety": mean distance of an image to its nearest neighbor, divided by the same for real images (0: all are
        identical, 1: as varied as real images); "likeness", "likeness_real": mean MS-SSIM of pairs (1: identical);
        with `modes`, "modes_shown" and "modes_shown_real": number of modes present. {} for fewer than 4 images.
    """
    if min(len(fakes), len(reals)) < 4:
        return {}
    small = [shrink(images) for images in (fakes, reals)]
    near, near_real = (mean_nearest_distance(images) for images in small)
    alike, alike_real = (float(ms_ssim(x[0::2][: len(x) // 2], x[1::2]).mean()) for x in small)
    found = {"variety": near / near_real if near_real else 1.0, "likeness": alike, "likeness_real": alike_real}
    if modes and fakes.shape[-1] >= MIN_CLASSIFIED_SIDE:
        shown = (len(np.unique(classify(images.numpy()))) for images in (fakes, reals))
        found |= dict(zip(("modes_shown", "modes_shown_real"), shown, strict=True))
    return found


def shrink(images: Tensor) -> Tensor:
    """Return images as floats with at most `MAX_SIDE` pixels per side, averaged over boxes."""
    x = images.float()
    return F.avg_pool2d(x, x.shape[-1] // MAX_SIDE) if x.shape[-1] > MAX_SIDE else x


def mean_nearest_distance(images: Tensor) -> float:
    """Return the mean Euclidean distance of each image to its nearest neighbor."""
    flat = images.flatten(1)
    distances = torch.cdist(flat, flat)
    return float(distances.fill_diagonal_(float("inf")).min(dim=1).values.mean())


def last_values(stage: Sequence[Line], name: str, count: int = MIN_TICKS) -> list[float]:
    """Return a field's values in the last `count` lines; [] if any of them lacks it."""
    values = [line[name] for line in stage[-count:] if isinstance(line.get(name), (int, float))]
    return values if len(values) == count else []


def is_collapsed(stage: Sequence[Line]) -> bool:
    """Return whether the generated images lack variety, or show few of the embedded dataset's modes."""
    near, modes, real = (last_values(stage, name) for name in ("variety", "modes_shown", "modes_shown_real"))
    few = bool(modes) and bool(real) and max(modes) < FEW_MODES * min(real)
    return few or (bool(near) and max(near) < LITTLE_VARIETY)


def is_memorized(stage: Sequence[Line]) -> bool:
    """Return whether the overfitting signal stays near 1."""
    signal = last_values(stage, "overfitting")
    return bool(signal) and fmean(signal) > MEMORIZED


def relative_norm(stage: Sequence[Line], name: str) -> float | None:
    """Return a gradient norm relative to the median of the stage's earlier ticks; None if there are too few."""
    before = [v for line in stage[:-1] if isinstance(v := line.get(name), (int, float)) and v > 0]
    now = stage[-1].get(name)
    return now / median(before) if len(before) >= MIN_TICKS and isinstance(now, (int, float)) else None


def is_vanishing(stage: Sequence[Line]) -> bool:
    """Return whether the generator's gradient has shrunk to a hundredth."""
    ratio = relative_norm(stage, "g_gradient")
    return ratio is not None and ratio < VANISHED


def is_exploding(stage: Sequence[Line]) -> bool:
    """Return whether a gradient has grown a hundredfold, or is not finite."""
    ratios = [relative_norm(stage, name) for name in ("g_gradient", "d_gradient")]
    return bool(stage[-1].get("skipped")) or any(ratio is not None and ratio > EXPLODED for ratio in ratios)


def is_oscillating(stage: Sequence[Line]) -> bool:
    """Return whether scores keep changing direction, by more than the gap between real and generated images."""
    fake, real = (np.array(last_values(stage, f"{name}_score", 2 * MIN_TICKS)) for name in ("fake", "real"))
    if not (len(fake) and len(real)):
        return False
    steps = np.diff(fake)
    turns = int((steps[1:] * steps[:-1] < 0).sum())
    return turns >= MIN_TICKS and float(np.abs(steps).mean()) > 2 * float(np.abs(real - fake).mean())


@dataclass(frozen=True)
class Sign:
    """A failure that can be read off the log.

    Attributes:
        is_present: lines of the stage so far, the current tick's last -> whether the failure is present.
    """

    title: str
    meaning: str
    advice: str
    is_present: Callable[[Sequence[Line]], bool]


SIGNS = {
    "collapse": Sign(
        "Mode collapse",
        "generated images are much less varied than real ones",
        "try --minibatch-stddev, --penalty gp or r1+r2, a lower --lr, or --n-critic above 1",
        is_collapsed,
    ),
    "overfitting": Sign(
        "Discriminator overfitting",
        "the discriminator scores held-out real images like generated ones: it has memorized the training set",
        "try --augment ada or more images, or use the checkpoint with the lowest FID (best.pt)",
        is_memorized,
    ),
    "vanishing": Sign(
        "Vanishing gradients",
        "the generator's gradient has dropped to a hundredth of its usual size in this stage, so it learns nothing",
        "try --loss nonsaturating or hinge, a gradient penalty, or a lower --d-lr",
        is_vanishing,
    ),
    "exploding": Sign(
        "Exploding gradients",
        "gradients are a hundred times their usual size in this stage, or not finite",
        "try a lower --lr, --precision fp32, or a larger --gp-weight or --r-weight",
        is_exploding,
    ),
    "oscillation": Sign(
        "Oscillation",
        "the discriminator's scores swing from tick to tick by more than the gap between real and generated images",
        "try a lower --lr, --adam-beta1 0, --penalty r1+r2, or a different --d-lr",
        is_oscillating,
    ),
}


def find_signs(lines: Sequence[Line]) -> list[str]:
    """Return the names of the failures present at the last of a run's log lines."""
    stage = [line for line in lines if line["resolution"] == lines[-1]["resolution"]]
    return [name for name, sign in SIGNS.items() if sign.is_present(stage)]


def describe_sign(name: str) -> str:
    """Return a failure as one sentence: "mode collapse: ...; try ..."."""
    sign = SIGNS[name]
    return f"{sign.title.lower()}: {sign.meaning}; {sign.advice}"
