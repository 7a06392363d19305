"""Sliced Wasserstein distance between patches of a Laplacian pyramid (Karras et al. 2018, section 5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

PATCHES_PER_IMAGE = 128
IMAGES = 16384  # at most, as in the paper: their patches are held in memory
PATCH = 7
SMALLEST_LEVEL = 16
DIRECTION_REPEATS, DIRECTIONS = 4, 128
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


class PatchDescriptors:
    """Random patches of every image at every level, kept in float32: [patches, C * side * side] a level.

    Levels go from the images' own size down to 16; images smaller than that are one level. The official patch of
    7x7 shrinks to the largest odd one below the level's size, where that is smaller (3x3 in a 4x4 image).
    128 patches of 7x7 are 75 KB of each RGB image and level; images after the first 16,384 are left out.
    """

    takes = "images"

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.count = seed, 0
        self.rngs: dict[int, np.random.Generator] = {}
        self.levels: dict[int, list[Tensor]] = {}
        self.channels = 0

    def update(self, images: Tensor) -> None:
        """images: uint8 [N, C, r, r]. Raises MetricError where r is not a power of two from 4 on."""
        _, self.channels, height, width = images.shape
        if height != width or height < 4 or height & (height - 1):
            raise MetricError(f"SWD is of square images of 4, 8, 16, ... pixels a side, not {width}x{height}")
        images = images[: IMAGES - self.count]
        self.count += len(images)
        if not len(images):
            return
        for level in laplacian_pyramid(images.cpu().float()):
            self.levels.setdefault(level.shape[-1], []).append(self._patches(level))

    def _patches(self, level: Tensor) -> Tensor:
        n, side = len(level), level.shape[-1]
        patch = min(PATCH, side - 1)
        rng = self.rngs.setdefault(side, np.random.default_rng((self.seed, side)))
        y, x = torch.from_numpy(rng.integers(0, side - patch + 1, (n * PATCHES_PER_IMAGE, 2))).T
        windows = level.unfold(2, patch, 1).unfold(3, patch, 1)  # [N, C, rows, columns, patch, patch]
        image = torch.arange(n).repeat_interleave(PATCHES_PER_IMAGE)
        return windows[image, :, y, x].reshape(len(image), -1)

    def normalized(self, side: int) -> Tensor:
        """All patches of a level, each channel shifted and scaled to mean 0 and deviation 1 over all of them."""
        patches = torch.cat(self.levels[side]).view(-1, self.channels, self.levels[side][0].shape[1] // self.channels)
        mean = patches.mean(dim=(0, 2), keepdim=True, dtype=torch.float64)
        deviation = (patches - mean.float()).square().mean(dim=(0, 2), keepdim=True, dtype=torch.float64).sqrt()
        return ((patches - mean.float()) / deviation.float().clamp_min(1e-8)).flatten(1)


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Band-pass images from the full size down, and the low-pass rest of 16x16 (Burt & Adelson 1983)."""
    levels, rest = [], images
    while rest.shape[-1] // 2 >= SMALLEST_LEVEL:
        lower = blur(rest)[:, :, ::2, ::2]
        levels.append(rest - enlarge(lower))
        rest = lower
    return [*levels, rest]


def blur(images: Tensor) -> Tensor:
    """The 5x5 binomial filter, borders mirrored without repeating the edge."""
    channels = images.shape[1]
    for kernel, padding in ((BINOMIAL.view(1, 1, 1, 5), (2, 2, 0, 0)), (BINOMIAL.view(1, 1, 5, 1), (0, 0, 2, 2))):
        padded = F.pad(images, padding, mode="reflect")
        images = F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
    return images


def enlarge(images: Tensor) -> Tensor:
    """Twice the size: zeros in between, then the binomial filter with four times the weight."""
    n, channels, height, width = images.shape
    spread = images.new_zeros(n, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = images
    return 4 * blur(spread)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Mean distance of sorted projections of a [N, D] and b [M, D] onto 4 x 128 random directions."""
    rng = np.random.default_rng(seed)
    projected = [torch.empty(DIRECTIONS, len(x)) for x in (a, b)]
    distances: list[float] = []
    with ThreadPoolExecutor() as threads:
        for _ in range(DIRECTION_REPEATS):
            directions = rng.standard_normal((DIRECTIONS, a.shape[1])).astype(np.float32)
            directions = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))
            for x, rows in zip((a, b), projected, strict=True):
                torch.mm(directions, x.T, out=rows)
            distances += threads.map(wasserstein, *(rows.numpy() for rows in projected))
    return float(np.mean(distances))


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Mean distance of the sorted a [N] and b [M], which are left sorted."""
    a.sort()
    b.sort()
    count = max(len(a), len(b))
    difference = repeated(a, count) - repeated(b, count)
    return float(np.abs(difference, out=difference).mean(dtype=np.float64))


def repeated(values: np.ndarray, count: int) -> np.ndarray:
    """Values [n] repeated evenly to `count` where there are fewer."""
    n = len(values)
    return values if n == count else values[((np.arange(count) + 0.5) * n / count).astype(int)]


class SWD:
    """Distance x 1000 for each level ("swd_32") and their mean ("swd"), as the paper reports it."""

    keeps = PatchDescriptors
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        pass

    def compare(self, real: PatchDescriptors, fake: PatchDescriptors) -> dict[str, float]:
        levels = {
            f"swd_{side}": 1000 * sliced_wasserstein(real.normalized(side), fake.normalized(side))
            for side in real.levels
        }
        return {"swd": float(np.mean(list(levels.values())))} | levels
