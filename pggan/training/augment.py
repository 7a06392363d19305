"""Augmentation of everything the discriminator sees, for small datasets, steered by an overfitting signal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ConfigError, TrainConfig
from . import ada
from .losses import ADVERSARIAL
from .state import random_generator

HOLDOUT_SIZES = range(200, 10_000)  # dataset sizes at risk of being memorized, yet large enough to hold out 5%


@dataclass(frozen=True)
class Augmentation:
    """Differentiable augmentation of images.

    "diffaug" transforms every image (Zhao et al. 2020, arXiv 2006.10738, section 3). Color: brightness + U(-0.5, 0.5),
    saturation * U(0, 2), contrast * U(0.5, 1.5). Translation: by up to 1/8 of the side, filled with gray. Cutout: a
    gray square of half the side.

    "ada" applies each transformation of its own pipeline (ada.py) with a probability p that follows an overfitting
    signal (Karras et al. 2020, arXiv 2006.06676, section 3): see `measure_overfitting` and `adapt`.

    The critic sees only augmented images: real, generated, and the points between them at which the gradient penalty is
    taken. The loss is then WGAN-GP between the augmented distributions, and the penalty constrains the critic with
    respect to the pixels of its input. The generator learns through the augmentations.

    Args:
        mode: "none", "diffaug" or "ada". target: overfitting signal at which "ada" holds p.
        speed: images seen while p goes from 0 to 1, if every check says up. every: steps between checks.
    """

    mode: str = "none"
    target: float = 0.5
    speed: float = 500_000.0
    every: int = 1

    @classmethod
    def from_config(cls, config: TrainConfig) -> Augmentation:
        """Return the augmentation that the options describe, after `config.resolve_config` has set --ada-target."""
        every = config.repeats if needs_held_out(config) else 1  # held-out images are scored once per schedule update
        return cls(config.augment, config.ada_target or 0.0, config.ada_kimg * 1000, every)

    def draw(self, rng: np.random.Generator, count: int, side: int) -> Tensor:
        """Return the random numbers of `count` images of `side` pixels, float32 [count, 28 (ADA) or 10]."""
        if self.mode == "ada":
            return ada.draw(rng, count)
        # the first three are unused; drawing them keeps the numbers of earlier versions
        chance, places = rng.random((8, count), dtype=np.float32), rng.integers(0, side + 1, (2, count))
        return torch.from_numpy(np.concatenate([chance, places.astype(np.float32)]).T)

    def __call__(self, images: Tensor, p: Tensor, noise: Tensor) -> Tensor:
        """Return images [N, C, r, r] in [-1, 1], augmented.

        Args:
            p: scalar tensor in [0, 1] on the images' device, for "ada". noise: drawn by `draw`.
        """
        if self.mode == "none":
            return images
        if self.mode == "ada":
            return ada.augment(images, p, noise)
        count, side = len(images), images.shape[-1]
        chance, places = noise.T.split([8, 2])
        x = jitter_color(images, *chance[3:6].reshape(3, count, 1, 1, 1).unbind(0))
        reach = int(side / 8 + 0.5)
        x = translate(x, sample_offsets(chance[6:8], reach).long(), reach)
        return torch.where(square_mask(places, side), torch.zeros((), device=x.device), x)

    def adapt(self, p: Tensor, margins: Tensor, measured: Tensor, batch_size: int) -> None:
        """Update p of "ada" and the averaged overfitting signal, both in place; non-finite measurements count nothing.

        The two parts of the signal are averaged over the last `speed` / 100 images or so: a batch of 4 says little,
        and meanwhile p moves by 0.01 at most. Then p moves by the sign of (signal - target), without the division,
        whose result has the wrong sign where the critic scores generated images higher than real ones.

        Args:
            p: scalar in [0, 1]. margins: [2], moving averages of what `measure_overfitting` returns; measured: its
                new values.
        """
        seen = self.every * batch_size
        average = torch.lerp(margins, measured, 1 - math.exp(-100 * seen / self.speed))
        margins.copy_(torch.where(measured.isfinite().all(), average, margins))
        direction = torch.sign(margins[0] - self.target * margins[1].abs())
        p.add_(direction * (measured.isfinite().all() * (seen / self.speed))).clamp_(0.0, 1.0)


def split_holdout(config: TrainConfig, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of the training images and of the held-out images, drawn by the seed.

    Raises:
        ConfigError: too few images are held out for adaptive augmentation, or too few remain.
    """
    order, group = random_generator(config.seed, 0, "held out").permutation(size), config.mbstd_group
    count = round(size * (0.05 if config.holdout is None else config.holdout))
    if config.holdout is None and (size not in HOLDOUT_SIZES or count < group):
        count = 0
    enough = math.ceil(100 * group / size)  # percent that make up a minibatch-stddev group
    if config.augment == "ada" and needs_held_out(config) and not count:
        raise ConfigError(
            f"--augment ada needs held-out images to measure overfitting; set --holdout, for example {max(enough, 5)}%"
        )
    if count and not group <= count < size:
        raise ConfigError(
            f"--holdout: holds out {count} of {size} images; use {enough}% or more, which makes up a minibatch-stddev "
            f"group of {group}, and leave some to train on"
        )
    return np.sort(order[count:]), np.sort(order[:count])


def needs_held_out(config: TrainConfig) -> bool:
    """Return whether the overfitting signal that drives ADA's p is measured on held-out images."""
    return ADVERSARIAL[config.loss].boundary is None


def measure_overfitting(terms: Mapping[str, Tensor]) -> Tensor | None:
    """Return numerator and denominator of ADA's overfitting signal [2], None if a step has not measured it.

    Both signals are near 0 without overfitting and 1 if the critic has memorized (Karras et al. 2020, equation 1):

        r_t = E[sign(D(train))] / 1
        r_v = (E[D(train)] - E[D(held out)]) / (E[D(train)] - E[D(fake)])

    r_t needs a score that separates real from generated images. The scores of a Wasserstein or relativistic critic may
    be shifted as a whole; r_v does not change if all scores are shifted or scaled.

    Args:
        terms: mean scores "real_score", "fake_score", and "real_sign" or "held_out_score", scalars.
    """
    if "real_sign" in terms:
        return torch.stack([terms["real_sign"], torch.ones_like(terms["real_sign"])])
    if "held_out_score" in terms:
        real = terms["real_score"]
        return torch.stack([real - terms["held_out_score"], real - terms["fake_score"]])
    return None


def jitter_color(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, saturation and contrast by numbers [N, 1, 1, 1] in [0, 1]; 0.5 changes nothing."""
    x = x + (brightness - 0.5)
    gray = x.mean(dim=1, keepdim=True)
    x = gray + (x - gray) * (2 * saturation)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def sample_offsets(chance: Tensor, reach: int) -> Tensor:
    """Map numbers in [0, 1) to integers from -reach to reach."""
    return (chance * (2 * reach + 1)).floor().clamp(max=2 * reach) - reach


def translate(x: Tensor, shift: Tensor, reach: int) -> Tensor:
    """Shift images [N, C, r, r] by whole pixels [2, N], at most `reach`, filling with zeros (gray)."""
    count, _, side, _ = x.shape
    place = torch.arange(side, device=x.device)
    rows, columns = (place + reach - shift[axis][:, None] for axis in (0, 1))
    sample = torch.arange(count, device=x.device)[:, None, None]
    padded = F.pad(x, (reach,) * 4).permute(0, 2, 3, 1)
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def square_mask(centers: Tensor, side: int) -> Tensor:
    """Return a mask [N, 1, r, r] of squares of half the side around centers [2, N], clipped at the edges."""
    size = side // 2
    place = torch.arange(side, device=centers.device)
    near = [(place >= c[:, None] - size // 2) & (place < c[:, None] - size // 2 + size) for c in centers]
    return (near[0][:, :, None] & near[1][:, None, :])[:, None]
