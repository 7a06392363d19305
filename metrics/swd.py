"""Sliced Wasserstein distance (SWD) between patches of Laplacian pyramids (Karras et al. 2018, section 5)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import MetricError

# Figures without a source of their own are the paper's, section 5.
PATCHES_PER_IMAGE = 128
IMAGES = 16384  # used at most; their patches are stored on disk
PATCH = 7  # pixels a side
SMALLEST_LEVEL = 16  # pixels a side
DIRECTION_REPEATS, DIRECTIONS = 8, 64  # 512 directions; the official code's 4 batches of 128 need twice the memory
BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)  # low-pass filter of the pyramid (Burt & Adelson 1983)
# From 6x6 pixels to the 8x8 pixels in the middle of their enlargement, [36, 64]; one axis, then both
_DOUBLING = torch.tensor([[2 * BINOMIAL[2 * i - j] if 0 <= 2 * i - j < 5 else 0 for j in range(8)] for i in range(6)])
ENLARGEMENT = torch.kron(_DOUBLING, _DOUBLING)
# Our choices, which bound memory: values of images whose pyramid is built at a time, as float32 16 MiB, and patches
# that are read at a time, 38 MB for RGB.
MAX_VALUES, CHUNK = 1 << 22, 1 << 16


def find_temporary_folder() -> str:
    """Return the folder for large temporary files: $TMPDIR, or else /var/tmp, since /tmp may be in memory."""
    is_chosen = "TMPDIR" in os.environ or not os.access("/var/tmp", os.W_OK)
    return tempfile.gettempdir() if is_chosen else "/var/tmp"


class PatchFile:
    """Patches, float32 [count, size], in a temporary file that disappears with this object or process.

    Args:
        size: values per patch.

    Attributes:
        count: number of patches so far.
    """

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        # unbuffered: a full disk raises its error in `append`
        self.file = tempfile.TemporaryFile(dir=find_temporary_folder(), buffering=0)  # noqa: SIM115 (stays open)

    def append(self, patches: Tensor) -> None:
        """Add patches [N, size]. Raises OSError if the disk is full."""
        self.file.seek(0, os.SEEK_END)
        data = memoryview(patches.contiguous().numpy()).cast("B")
        while data:
            data = data[self.file.write(data) :]
        self.count += len(patches)

    def __iter__(self) -> Iterator[Tensor]:
        """Yield all patches in order, [CHUNK or fewer, size], each chunk valid until the next one is read."""
        self.file.seek(0)
        buffer = np.empty((min(CHUNK, self.count), self.size), np.float32)
        for start in range(0, self.count, CHUNK):
            chunk = buffer[: self.count - start]
            self.file.readinto(memoryview(chunk).cast("B"))
            yield torch.from_numpy(chunk)


class NormalizedPatches:
    """A level's patches with mean 0 and deviation 1 in each channel, over all its patches (paper, section 5).

    Iterating yields chunks [N, C * patch * patch], each valid until the next one is read.
    """

    def __init__(self, patches: PatchFile, channels: int) -> None:
        self.patches, self.channels = patches, channels
        values = patches.count * patches.size // channels  # per channel
        sums = [sum_channels(x) for x in self.center(torch.zeros(1, channels, 1))]
        self.mean = (torch.stack(sums).sum(dim=0) / values).float()
        squares = torch.stack([sum_channels(x.square_()) for x in self.center(self.mean)]).sum(dim=0)
        self.deviation = (squares / values).sqrt().float().clamp_min(1e-8)  # 1e-8: images of one color

    def center(self, mean: Tensor) -> Iterator[Tensor]:
        """Yield chunks [N, C, patch * patch] of the patches minus a mean [1, C, 1]."""
        return (chunk.view(len(chunk), self.channels, -1).sub_(mean) for chunk in self.patches)

    def __iter__(self) -> Iterator[Tensor]:
        return (chunk.div_(self.deviation).flatten(1) for chunk in self.center(self.mean))


def sum_channels(patches: Tensor) -> Tensor:
    """Return the sums over patches [N, C, P] in each channel, float64 [1, C, 1]."""
    return patches.sum(dim=(0, 2), keepdim=True, dtype=torch.float64)


class PatchDescriptors:
    """Random patches of every image at every pyramid level, float32 [patches, C * side * side] per level.

    Levels go from the images' size down to 16x16; smaller images have a single level. In 4x4 images, the 7x7 patches
    shrink to 3x3. The 128 patches take 75 KB of disk per RGB image and level. Images after the first 16,384 are
    ignored.

    Args:
        seed: of the patches' positions, which are drawn per level, in the order of the images.

    Attributes:
        count: number of images so far.
        channels: of the images.
        levels: patches by the level's side in pixels.
    """

    input_name = "images"

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.count = seed, 0
        self.rngs: dict[int, np.random.Generator] = {}
        self.levels: dict[int, PatchFile] = {}
        self.channels = 0

    def update(self, images: Tensor) -> None:
        """Add images, uint8 [N, C, r, r].

        Raises:
            MetricError: r is not a power of two, 4 or more. OSError: the disk is full.
        """
        _, self.channels, height, width = images.shape
        if height != width or height < 4 or height & (height - 1):
            raise MetricError(f"SWD needs square images of 4, 8, 16, ... pixels a side, not {width}x{height}")
        images = images[: IMAGES - self.count]
        self.count += len(images)
        values = self.channels * max(height * width, PATCHES_PER_IMAGE * PATCH**2)  # per image
        for part in images.split(max(MAX_VALUES // values, 1)) if len(images) else ():
            rest = part.cpu().float()
            while rest.shape[-1] // 2 >= SMALLEST_LEVEL:
                lower = halve(rest)
                self._add_patches(rest, lower)
                rest = lower
            self._add_patches(rest)

    def _add_patches(self, images: Tensor, lower: Tensor | None = None) -> None:
        """Draw the patches of a level of the Laplacian pyramid (Burt & Adelson 1983).

        Args:
            images: [N, C, side, side].
            lower: the same images at half the side, whose enlargement is subtracted; None at the last level.
        """
        n, side = len(images), images.shape[-1]
        patch = min(PATCH, side - 1)
        if side not in self.levels:
            # one generator per level, so that the patches do not depend on how images are batched
            self.rngs[side] = np.random.default_rng((self.seed, side))
            self.levels[side] = PatchFile(self.channels * patch**2)
        corners = torch.from_numpy(self.rngs[side].integers(0, side - patch + 1, (n * PATCHES_PER_IMAGE, 2)))
        numbers = torch.arange(n).repeat_interleave(PATCHES_PER_IMAGE)
        patches = read_windows(images, numbers, corners, patch)
        if lower is not None:
            patches -= read_enlarged_windows(lower, numbers, corners)
        self.levels[side].append(patches.flatten(1))

    def normalize(self, side: int) -> NormalizedPatches:
        """Return a level's patches, normalized in each channel."""
        return NormalizedPatches(self.levels[side], self.channels)


def halve(images: Tensor) -> Tensor:
    """Apply the 5x5 binomial filter and keep every second row and column.

    Borders are mirrored without repeating the edge, as in the official code. Shifted images are added up, which takes
    a fifth of the time of a convolution with so few channels.

    Args:
        images: float [N, C, r, r].
    """
    side, padded = images.shape[-1], F.pad(images, (2, 2, 2, 2), mode="reflect")
    rows = apply_binomial([padded[:, :, shift : shift + side : 2] for shift in range(5)])
    return apply_binomial([rows[:, :, :, shift : shift + side : 2] for shift in range(5)])


def apply_binomial(shifted: list[Tensor]) -> Tensor:
    """Return the sum of 5 shifted images, weighted by the binomial filter."""
    total = shifted[0] * BINOMIAL[0]
    for images, weight in zip(shifted[1:], BINOMIAL[1:], strict=True):
        total.add_(images, alpha=weight)
    return total


def read_windows(images: Tensor, numbers: Tensor, corners: Tensor, side: int) -> Tensor:
    """Return square windows of images, [P, C, side, side].

    Args:
        images: [N, C, H, W].
        numbers: of the windows' images, [P].
        corners: row and column of each window's first pixel, [P, 2].
    """
    _, channels, height, width = images.shape
    planes = numbers[:, None] * channels + torch.arange(channels)  # [P, C]
    rows = (planes * height + corners[:, :1])[:, :, None] + torch.arange(side)  # [P, C, side]
    starts = rows * width + corners[:, 1:, None]
    return images.flatten().unfold(0, side, 1).index_select(0, starts.flatten()).view(*starts.shape, side)


def read_enlarged_windows(images: Tensor, numbers: Tensor, corners: Tensor) -> Tensor:
    """Return 7x7 windows of images enlarged to double size, without enlarging the rest; see `read_windows`.

    Enlarging inserts zeros, then applies the binomial filter times 4 (3 of 4 pixels are zero).
    """
    # mirrored at double size, where the last row and column are zeros: those before them are repeated
    padded = F.pad(F.pad(images, (1, 0, 1, 0), mode="reflect"), (0, 1, 0, 1), mode="replicate")
    sources = read_windows(padded, numbers, corners // 2, 6)
    enlarged = (sources.flatten(2) @ ENLARGEMENT).unflatten(2, (8, 8))
    return read_windows(enlarged, torch.arange(len(numbers)), corners % 2, PATCH)


def sliced_wasserstein(a: Iterable[Tensor], b: Iterable[Tensor], seed: int = 0) -> float:
    """Return the mean 1-D Wasserstein distance between projections of a [N, D] and b [M, D].

    They are projected onto 512 random unit vectors. N and M may differ; see `wasserstein`.

    Args:
        a, b: each in chunks [n, D]; iterated over several times.
    """
    rng = np.random.default_rng(seed)
    # reused: they are as large as many patches
    projected = [torch.empty(DIRECTIONS, sum(map(len, x))) for x in (a, b)]
    size = next(iter(a)).shape[1]
    distances: list[float] = []
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # NumPy releases the GIL while sorting
        for _ in range(DIRECTION_REPEATS):
            directions = rng.standard_normal((DIRECTIONS, size)).astype(np.float32)
            # unit vectors, uniformly distributed: normalized Gaussians
            directions = torch.from_numpy(directions / np.linalg.norm(directions, axis=1, keepdims=True))
            for x, rows in zip((a, b), projected, strict=True):
                start = 0
                for chunk in x:
                    rows[:, start : start + len(chunk)] = directions @ chunk.T
                    start += len(chunk)
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
