"""Signs of a run that goes wrong, read off the numbers of its ticks: what each means and what to try.

Every sign holds within a stage and only where it has lasted, since one tick by itself says little.
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

from datasets import SMALLEST_CLASSIFIED, classify
from metrics.msssim import ms_ssim

Line = Mapping[str, Any]  # of log.jsonl
LASTING, LARGEST = 5, 64  # ticks that a sign must last; pixels that pictures are compared at


def variety(fakes: Tensor, reals: Tensor, modes: bool) -> dict[str, float]:
    """How varied the images of a sample grid are beside as many real ones.

    Args:
        fakes, reals: uint8 [N, C, r, r]. modes: both are of the embedded set, whose modes can be told.

    Returns:
        "variety": mean distance of an image to its nearest neighbour, by that of the real ones (0: all are the same);
        "likeness", "likeness_real": mean MS-SSIM of pairs; "modes_shown", "modes_shown_real": how many, with `modes`.
    """
    if min(len(fakes), len(reals)) < 4:
        return {}
    small = [shrunk(images) for images in (fakes, reals)]
    near, near_real = (nearest(images) for images in small)
    alike, alike_real = (float(ms_ssim(x[0::2][: len(x) // 2], x[1::2]).mean()) for x in small)
    found = {"variety": near / near_real if near_real else 1.0, "likeness": alike, "likeness_real": alike_real}
    if modes and fakes.shape[-1] >= SMALLEST_CLASSIFIED:
        shown = (len(np.unique(classify(images.numpy()))) for images in (fakes, reals))
        found |= dict(zip(("modes_shown", "modes_shown_real"), shown, strict=True))
    return found


def shrunk(images: Tensor) -> Tensor:
    """As floats, of at most LARGEST pixels a side, by averaging boxes."""
    x = images.float()
    return F.avg_pool2d(x, x.shape[-1] // LARGEST) if x.shape[-1] > LARGEST else x


def nearest(images: Tensor) -> float:
    """Mean distance from each image to the one most like it."""
    flat = images.flatten(1)
    distances = torch.cdist(flat, flat)
    return float(distances.fill_diagonal_(float("inf")).min(dim=1).values.mean())


def last(stage: Sequence[Line], name: str, count: int = LASTING) -> list[float]:
    """The field in the last `count` lines; [] where one lacks it."""
    values = [line[name] for line in stage[-count:] if isinstance(line.get(name), (int, float))]
    return values if len(values) == count else []


def collapsed(stage: Sequence[Line]) -> bool:
    """Images alike for LASTING ticks, or few of the embedded set's modes."""
    near, modes, real = (last(stage, name) for name in ("variety", "modes_shown", "modes_shown_real"))
    few = bool(modes) and bool(real) and max(modes) < 0.25 * min(real)
    return few or (bool(near) and max(near) < 0.35)


def by_heart(stage: Sequence[Line]) -> bool:
    """A discriminator whose overfitting signal is near 1."""
    signal = last(stage, "overfitting")
    return bool(signal) and fmean(signal) > 0.7


def compared(stage: Sequence[Line], name: str) -> float | None:
    """A gradient norm by the median of the stage's ticks before it, or None where there are too few."""
    before = [v for line in stage[:-1] if isinstance(v := line.get(name), (int, float)) and v > 0]
    now = stage[-1].get(name)
    return now / median(before) if len(before) >= LASTING and isinstance(now, (int, float)) else None


def vanished(stage: Sequence[Line]) -> bool:
    """The generator's gradient a hundredth of what it was."""
    ratio = compared(stage, "g_gradient")
    return ratio is not None and ratio < 0.01


def exploded(stage: Sequence[Line]) -> bool:
    """A gradient a hundred times what it was, or not finite."""
    ratios = [compared(stage, name) for name in ("g_gradient", "d_gradient")]
    return bool(stage[-1].get("skipped")) or any(ratio is not None and ratio > 100 for ratio in ratios)


def oscillates(stage: Sequence[Line]) -> bool:
    """Scores that turn about at every tick, by more than what lies between real and generated images."""
    fake, real = (np.array(last(stage, f"{name}_score", 2 * LASTING)) for name in ("fake", "real"))
    if not (len(fake) and len(real)):
        return False
    steps = np.diff(fake)
    turns = int((steps[1:] * steps[:-1] < 0).sum())
    return turns >= LASTING and float(np.abs(steps).mean()) > 2 * float(np.abs(real - fake).mean())


@dataclass(frozen=True)
class Sign:
    """Something that goes wrong. seen: lines of the stage so far, this tick's last -> whether it shows."""

    title: str
    meaning: str
    advice: str
    seen: Callable[[Sequence[Line]], bool]


SIGNS = {
    "collapse": Sign(
        "Mode collapse",
        "the generated images are much more alike than the real ones: the generator shows few of their kinds",
        "try --minibatch-stddev, --penalty gp or r1+r2, a lower --lr, or --n-critic above 1",
        collapsed,
    ),
    "overfitting": Sign(
        "Discriminator overfitting",
        "the discriminator scores images that it never saw as it scores generated ones: it knows its own by heart",
        "try --augment ada, more images, or stop where FID was lowest",
        by_heart,
    ),
    "vanishing": Sign(
        "Vanishing gradients",
        "the generator's gradient is a hundredth of what it was in this stage: it learns nothing",
        "try --loss nonsaturating or hinge, a gradient penalty, or a lower --d-lr",
        vanished,
    ),
    "exploding": Sign(
        "Exploding gradients",
        "gradients are a hundred times what they were in this stage, or not finite",
        "try a lower --lr, --precision fp32, or a larger --gp-weight or --r-weight",
        exploded,
    ),
    "oscillation": Sign(
        "Oscillation",
        "the discriminator's scores swing from tick to tick by more than what parts real from generated images: the "
        "networks chase each other",
        "try a lower --lr or --adam-beta1 0, --penalty r1+r2, or a --d-lr of its own",
        oscillates,
    ),
}


def signs(lines: Sequence[Line]) -> list[str]:
    """Names of the signs that show at the last of a run's lines."""
    stage = [line for line in lines if line["resolution"] == lines[-1]["resolution"]]
    return [name for name, sign in SIGNS.items() if sign.seen(stage)]


def sentence(name: str) -> str:
    """As in "mode collapse: ...: try ..."."""
    sign = SIGNS[name]
    return f"{sign.title.lower()}: {sign.meaning}; {sign.advice}"
