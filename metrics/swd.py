"""Sliced Wasserstein distance (SWD) between patches of Laplacian pyramids (Karras et al. 2018, section 5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

# Figures without a source of their own are the paper's, section 5.
PATCHES_PER_IMAGE = 128
IMAGES = 16384  # used at most; their patches are held in memory
PATCH = 7  # pixels a side
SMALLEST_LEVEL = 16  # pixels a side
DIRECTION_REPEATS, DIRECTIONS = 4, 128  # 512 directions in 4 batches, as in the official code
BINOMIAL = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16  # low-pass filter of the pyramid (Burt & Adelson 1983)


class PatchDescriptors:
    """Random patches of every image at every pyramid level, float32 [patches, C * side * side] per level.

    Levels go from the images' size down to 16x16; smaller images have a single level. In 4x4 images, the 7x7 patches
    shrink to 3x3. The 128 patches take 75 KB per RGB image and level. Images after the first 16,384 are ignored.

    Args:
        seed: of the patches' positions, which are drawn per level, in the order of the images.

    Attributes:
        count: number of images so far.
        channels: of the images.
        levels: patches by the level's side in pixels, as a list over batches.
    """

    input_name = "images"

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.count = seed, 0
        self.rngs: dict[int, np.random.Generator] = {}
        self.levels: dict[int, list[Tensor]] = {}
        self.channels = 0

    def update(self, images: Tensor) -> None:
        """Add images, uint8 [N, C, r, r]. Raises MetricError unless r is a power of two, 4 or more."""
        _, self.channels, height, width = images.shape
        if height != width or height < 4 or height & (height - 1):
            raise MetricError(f"SWD needs square images of 4, 8, 16, ... pixels a side, not {width}x{height}")
        images = images[: IMAGES - self.count]
        self.count += len(images)
        if not len(images):
            return
        for level in laplacian_pyramid(images.cpu().float()):
            self.levels.setdefault(level.shape[-1], []).append(self._patches(level))

    def _patches(self, level: Tensor) -> Tensor:
        """Draw the patches of one level, [N, C, side, side] -> [N * 128, C * patch * patch]."""
        n, side = len(level), level.shape[-1]
        patch = min(PATCH, side - 1)
        # one generator per level, so that the patches do not depend on how images are batched
        rng = self.rngs.setdefault(side, np.random.default_rng((self.seed, side)))
        y, x = torch.from_numpy(rng.integers(0, side - patch + 1, (n * PATCHES_PER_IMAGE, 2))).T
        windows = level.unfold(2, patch, 1).unfold(3, patch, 1)  # [N, C, rows, columns, patch, patch]
        image = torch.arange(n).repeat_interleave(PATCHES_PER_IMAGE)
        return windows[image, :, y, x].reshape(len(image), -1)

    def normalize(self, side: int) -> Tensor:
        """Return a level's patches [P, C * patch * patch], with mean 0 and deviation 1 in each channel.

        Mean and deviation are taken over all patches of the level (paper, section 5).
        """
        patches = torch.cat(self.levels[side]).view(-1, self.channels, self.levels[side][0].shape[1] // self.channels)
        mean = patches.mean(dim=(0, 2), keepdim=True, dtype=torch.float64)
        deviation = (patches - mean.float()).square().mean(dim=(0, 2), keepdim=True, dtype=torch.float64).sqrt()
        return ((patches - mean.float()) / deviation.float().clamp_min(1e-8)).flatten(1)  # 1e-8: images of one color


def laplacian_pyramid(images: Tensor) -> list[Tensor]:
    """Return the band-pass images from the full size down, and last the low-pass image (Burt & Adelson 1983).

    Args:
        images: float [N, C, r, r].
    """
    levels, rest = [], images
    while rest.shape[-1] // 2 >= SMALLEST_LEVEL:
        lower = blur(rest)[:, :, ::2, ::2]
        levels.append(rest - enlarge(lower))
        rest = lower
    return [*levels, rest]


def blur(images: Tensor) -> Tensor:
    """Apply the 5x5 binomial filter, with borders mirrored without repeating the edge, as in the official code."""
    channels = images.shape[1]
    # separable: rows, then columns
    for kernel, padding in ((BINOMIAL.view(1, 1, 1, 5), (2, 2, 0, 0)), (BINOMIAL.view(1, 1, 5, 1), (0, 0, 2, 2))):
        padded = F.pad(images, padding, mode="reflect")
        images = F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)
    return images


def enlarge(images: Tensor) -> Tensor:
    """Double the size of images: insert zeros, then apply the binomial filter times 4 (3 of 4 pixels are zero)."""
    n, channels, height, width = images.shape
    spread = images.new_zeros(n, channels, 2 * height, 2 * width)
    spread[:, :, ::2, ::2] = images
    return 4 * blur(spread)


def sliced_wasserstein(a: Tensor, b: Tensor, seed: int = 0) -> float:
    """Return the mean 1-D Wasserstein distance between projections of a [N, D] and b [M, D].

    They are projected onto 4 x 128 random unit vectors. N and M may differ; see `wasserstein`.
    """
    rng = np.random.default_rng(seed)
    projected = [torch.empty(DIRECTIONS, len(x)) for x in (a, b)]  # reused: they are as large as many patches
    distances: list[float] = []
    with ThreadPoolExecutor() as threads:  # NumPy releases the GIL while sorting, which takes most of the time
        for _ in range(DIRECTION_REPEATS):
            directions = rng.standard_normal((DIRECTIONS, a.shape[1])).astype(np.float32)
            # unit vectors, uniformly distributed: normalized Gaussians
            directions = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))
            for x, rows in zip((a, b), projected, strict=True):
                torch.mm(directions, x.T, out=rows)  # [128, N]
            distances += threads.map(wasserstein, *(rows.numpy() for rows in projected))
    return float(np.mean(distances))


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Return the Wasserstein-1 distance of samples a [N] and b [M], approximately if N != M. Sorts both in place."""
    a.sort()
    b.sort()
    count = max(len(a), len(b))
    difference = repeat_evenly(a, count) - repeat_evenly(b, count)
    return float(np.abs(difference, out=difference).mean(dtype=np.float64))


def repeat_evenly(values: np.ndarray, count: int) -> np.ndarray:
    """Return `values` [n] repeated evenly to the length `count`, n <= count; sorted values stay sorted."""
    n = len(values)
    return values if n == count else values[((np.arange(count) + 0.5) * n / count).astype(int)]


class SWD:
    """SWD x 1000 per level ("swd_32") and averaged over the levels ("swd"), as in the paper's table 1."""

    accumulator_type = PatchDescriptors
    uses_reals = True

    def check(self, real: int, fake: int) -> None:
        """Accept any number of images."""

    def compare(self, real: PatchDescriptors, fake: PatchDescriptors) -> dict[str, float]:
        """Return {"swd": mean over levels, "swd_32": ..., "swd_16": ...}; lower is better."""
        levels = {
            f"swd_{side}": 1000 * sliced_wasserstein(real.normalize(side), fake.normalize(side)) for side in real.levels
        }
        return {"swd": float(np.mean(list(levels.values())))} | levels
