"""Augmentation of everything the discriminator sees, for sets of few images, and the signal that says it is needed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ConfigError, TrainConfig
from .ranks import Share
from .state import draws

SMALL = range(200, 10_000)  # sets that may be learnt by heart and can spare some images to tell


@dataclass(frozen=True)
class Augmentation:
    """Differentiable transformations of images (Zhao et al. 2020, section 3), each carried out with probability p.

    colour: brightness + U(-0.5, 0.5), saturation * U(0, 2), contrast * U(0.5, 1.5); translation: by up to 1/8 of the
    side, gray coming in; cutout: a square of half the side, gray. "diffaug" carries all out on every image; "ada" has
    one p for all of them, moved by `moved` (Karras et al. 2020a, section 3.1).

    The critic sees nothing but augmented images: reals, fakes, and the points between them that the gradient penalty
    is taken at. So the loss is WGAN-GP between the augmented distributions, and the penalty bounds the critic's slope
    by the pixels of its own input. The generator learns through the transformations, and its images show no trace of
    them while p is below 1 or each of them can be undone in distribution.

    Args:
        mode: "none", "diffaug" or "ada". target: the overfitting signal that "ada" aims at. speed: images seen from
            p = 0 to p = 1, when every look at the signal says to go up. every: steps from one look to the next.
    """

    mode: str = "none"
    target: float = 0.6
    speed: float = 500_000.0
    every: int = 1

    def __call__(self, images: Tensor, p: Tensor, rng: np.random.Generator, share: Share) -> Tensor:
        """Images [N, C, r, r] in [-1, 1] transformed.

        Args:
            p: scalar in [0, 1], on their device. rng: what chance says of the whole batch. share: theirs of it.
        """
        if self.mode == "none":
            return images
        count, side = len(images), images.shape[-1]
        chance = share.of(torch.from_numpy(rng.random((8, share.size), dtype=np.float32)).T).T
        chance = chance.to(images.device, non_blocking=True)
        colour, moved, cut = (chance[:3] < (p if self.mode == "ada" else 1.0)).reshape(3, count, 1, 1, 1).unbind(0)
        x = torch.where(colour, recoloured(images, *chance[3:6].reshape(3, count, 1, 1, 1).unbind(0)), images)
        reach = int(side / 8 + 0.5)
        x = translated(x, (offsets(chance[6:8], reach) * moved.view(1, count)).long(), reach)
        places = share.of(torch.from_numpy(rng.integers(0, side + 1, (2, share.size))).T).T.to(x.device)
        return torch.where(cut & inside_square(places, side), torch.zeros((), device=x.device), x)

    def moved(self, p: Tensor, signal: Tensor, batch_size: int) -> Tensor:
        """The next p of "ada", by the sign of (signal - target); as it was where the signal is not a number."""
        if self.mode != "ada":
            return p
        step = torch.sign(signal - self.target).nan_to_num(0.0) * (self.every * batch_size / self.speed)
        return (p + step).clamp(0.0, 1.0)


def split(config: TrainConfig, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to train on, and of those held out, chosen by the seed.

    Raises:
        ConfigError: too few are held out for adaptive augmentation, or too few left.
    """
    order, group = draws(config.seed, 0, "held out").permutation(size), config.mbstd_group
    count = round(size * (0.05 if config.holdout is None else config.holdout))
    if config.holdout is None and (size not in SMALL or count < group):
        count = 0
    if config.augment == "ada" and not count:
        raise ConfigError("--augment ada watches images that are held out, here none; give --holdout, as in 5%")
    if count and not group <= count < size:
        raise ConfigError(
            f"--holdout: {count} of {size} images is fewer than --mbstd-group, or leaves none to train on"
        )
    return np.sort(order[count:]), np.sort(order[:count])


def overfitting(real: Tensor, held_out: Tensor, fake: Tensor) -> Tensor:
    """How much better the critic knows the images it was trained on than others: about 0 no better, 1 by heart.

    r_v = (E[D(train)] - E[D(held out)]) / (E[D(train)] - E[D(fake)]) (Karras et al. 2020a, equation 1), of mean scores.
    Their other signal, the sign of D(train), means nothing for a Wasserstein critic, whose scores have no zero; r_v
    changes neither when a constant is added to all scores nor when they are multiplied by one.
    """
    return (real - held_out) / (real - fake)


def recoloured(x: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness, saturation and contrast changed by numbers [N, 1, 1, 1] in [0, 1], of which 0.5 change nothing."""
    x = x + (brightness - 0.5)
    gray = x.mean(dim=1, keepdim=True)
    x = gray + (x - gray) * (2 * saturation)
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (x - mean) * (contrast + 0.5)


def offsets(chance: Tensor, reach: int) -> Tensor:
    """Whole numbers from -reach to reach out of [0, 1)."""
    return (chance * (2 * reach + 1)).floor().clamp(max=2 * reach) - reach


def translated(x: Tensor, by: Tensor, reach: int) -> Tensor:
    """Images [N, C, r, r] moved by whole pixels [2, N], at most `reach`; zeros come in."""
    count, _, side, _ = x.shape
    place = torch.arange(side, device=x.device)
    rows, columns = (place + reach - by[axis][:, None] for axis in (0, 1))
    sample = torch.arange(count, device=x.device)[:, None, None]
    padded = F.pad(x, (reach,) * 4).permute(0, 2, 3, 1)
    return padded[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def inside_square(centres: Tensor, side: int) -> Tensor:
    """Mask [N, 1, r, r] of squares of half the side around [2, N], cut off at the images' edges."""
    size = side // 2
    place = torch.arange(side, device=centres.device)
    near = [(place >= c[:, None] - size // 2) & (place < c[:, None] - size // 2 + size) for c in centres]
    return (near[0][:, :, None] & near[1][:, None, :])[:, None]
