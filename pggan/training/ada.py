"""ADA's augmentation pipeline "bgc": pixel blitting, geometric transformations, color (Karras et al. 2020).

arXiv 2006.06676, appendix B, has the transformations, their strengths and their order. Each is applied to an image
with probability p, independently of the others. While p is well below 1, each is invertible as a map between
distributions of images, and so is their composition: a generator whose augmented images match the augmented real ones
matches the real ones (section 2.2), and augmentations do not leak into its images.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Low-pass filter of the orthogonal wavelet sym6: Daubechies' scaling filter with 6 vanishing moments, of those the most
# symmetric one (Daubechies 1992, "Ten lectures on wavelets", section 8.1). Sum sqrt(2); orthogonal to its shifts by 2,
# so that upsampling and downsampling with it changes nothing, and almost no frequency aliases.
SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
TAPS = len(SYM6)
DELAY = sum(n * tap for n, tap in enumerate(SYM6)) / math.sqrt(2)  # center of mass: sample n lies at (n - DELAY) / 2
REACH = 3  # pixels that the taps reach on each side: TAPS samples at twice the resolution, rounded up

# Strengths (appendix B, "transformation parameters")
MAX_SHIFT = 1 / 8  # integer translation, fraction of the side
SCALE_STD = 0.2  # of the logarithms to base 2 of isotropic and anisotropic scaling
SHIFT_STD = 1 / 8  # fractional translation, fraction of the side
BRIGHTNESS_STD = 0.2  # for pixels in [-1, 1]
CONTRAST_STD = 0.5  # of the logarithm to base 2
SATURATION_STD = 1.0  # of the logarithm to base 2

# Random numbers of an image: whether each of 13 transformations is applied, then their parameters
CHANCES, UNIFORMS, NORMALS = 13, 8, 7


def draw(rng: np.random.Generator, count: int) -> Tensor:
    """Return the random numbers of `count` images, float32 [count, 28]: 21 uniform in [0, 1), 7 standard normal."""
    uniform = rng.random((count, CHANCES + UNIFORMS), dtype=np.float32)
    return torch.from_numpy(np.concatenate([uniform, rng.standard_normal((count, NORMALS), dtype=np.float32)], axis=1))


def augment(images: Tensor, p: Tensor, noise: Tensor) -> Tensor:
    """Return images [N, C, r, r] in [-1, 1], C 1 or 3, augmented; float32, not clipped.

    An image to which no transformation is applied keeps its bits.

    Args:
        p: scalar tensor in [0, 1] on the images' device. noise: [N, 28], drawn by `draw`.
    """
    chances, uniforms, normals = noise.T.split([CHANCES, UNIFORMS, NORMALS])
    once_of_two = 1 - (1 - p).sqrt()  # so that either rotation is applied with probability p
    limits = torch.stack([once_of_two if index in (4, 6) else p for index in range(CHANCES)])
    applied = (chances < limits[:, None]).float()
    blits, shift, warps, colors = applied.split([2, 1, 5, 5])
    with torch.autocast(images.device.type, enabled=False):
        x = blit(images.float(), *(blits * uniforms[:2]))
        matrix, offset = compose(x.shape[-1], shift, warps, uniforms[2:6], normals[:4])
        is_warped, is_colored = (flags.any(0).view(-1, 1, 1, 1) for flags in (applied[2:8], applied[8:]))
        x = torch.where(is_warped, warp(x, matrix, offset), x)
        return torch.where(is_colored, adjust_color(x, *parametrize_color(colors, uniforms[6:], normals[4:])), x)


def blit(x: Tensor, flip: Tensor, turn: Tensor) -> Tensor:
    """Flip images [N, C, r, r] if flip >= 1/2, then rotate them by floor(4 turn) quarter turns.

    flip, turn: [N] in [0, 1).
    """
    flip, quarters = (flip >= 0.5).view(-1, 1, 1, 1), (4 * turn).floor().view(-1, 1, 1, 1)
    x = torch.where(flip, x.flip(3), x)
    x = torch.where(quarters.remainder(2) == 1, x.rot90(dims=(2, 3)), x)
    return torch.where(quarters >= 2, x.flip((2, 3)), x)


def compose(side: int, shift: Tensor, warps: Tensor, uniforms: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
    """Compose the geometric transformations of each image; return the inverse, as `warp` takes it.

    Forward and in this order: integer translation, isotropic scaling, rotation, anisotropic scaling, rotation,
    fractional translation. The two rotations, by any angle, give the anisotropic scaling any direction.

    Args:
        shift: [1, N], 1 where the integer translation is applied. warps: [5, N], the same for the others.
        uniforms: [4, N], of the integer translation and the rotations. normals: [4, N], of scaling and translation.
    """
    scaled, first, stretched, second, moved = warps
    whole = torch.round((2 * uniforms[:2] - 1) * (MAX_SHIFT * side)) * shift
    scale = torch.exp2(SCALE_STD * normals[0] * scaled)
    stretch = torch.exp2(SCALE_STD * normals[1] * stretched)
    angles = (2 * uniforms[2:] - 1) * math.pi
    moves = (SHIFT_STD * side) * normals[2:] * moved

    inverse_stretch = torch.stack([1 / stretch, stretch], dim=1)[:, :, None] / scale[:, None, None]
    matrix = rotation(-angles[0] * first) @ (inverse_stretch * rotation(-angles[1] * second))
    return matrix, -(matrix @ moves.T[:, :, None]).squeeze(2) - whole.T


def rotation(angle: Tensor) -> Tensor:
    """Return rotation matrices [N, 2, 2] by angles [N] in radians."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, -sin, sin, cos], dim=1).view(-1, 2, 2)


def warp(x: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Resample images [N, C, r, r] so that the pixel at position q shows what was at matrix q + offset.

    Positions are (column, row) in pixels from the image's center. The image, continued by its mirror images beyond the
    centers of the outermost pixels, is upsampled by 2 with sym6, sampled bilinearly at twice the resolution, and
    downsampled by 2 with the same filter, which suppresses what the smaller image cannot represent.

    Args:
        matrix: [N, 2, 2]. offset: [N, 2].
    """
    side = x.shape[-1]
    # Both filters as dense matrices: with the paper's networks 0.03% of a step's operations at 64x64, 6% at 512x512.
    # Convolutions of single channels would need fewer at 1024x1024 (39%) but are several times as slow on a CPU. The
    # taps are filled in one by one, since a CUDA graph cannot copy from the host.
    taps = torch.stack([torch.full((), tap, device=x.device) for tap in SYM6])[None, None]
    pixels = torch.eye(side, device=x.device)
    # Within the margin, samples are those of the continued image, so that whole-pixel translations are exact; farther
    # out they are mirrored themselves, which at high frequencies differs a little, since sym6 is not quite symmetric
    margin = math.ceil(MAX_SHIFT * side) + REACH
    place = reflect(torch.arange(-margin - REACH, side + margin + REACH, device=x.device), side)
    up = F.conv_transpose1d(pixels[place].T[:, None], taps, stride=2, padding=TAPS - 2).squeeze(1)  # [r, samples]
    down = F.conv_transpose1d(pixels[:, None], taps, stride=2).squeeze(1)  # [r, 2 r + 10]

    middle = (side - 1) / 2
    outputs = (torch.arange(down.shape[1], device=x.device) - DELAY) / 2 - middle
    grid = torch.stack(torch.meshgrid(outputs, outputs, indexing="xy"), dim=2)
    position = torch.einsum("nij,hwj->nhwi", matrix, grid) + offset[:, None, None] + middle
    is_far = (position < -margin) | (position > side - 1 + margin)
    position = torch.where(is_far, reflect(position, side), position)
    first = (TAPS - 2 - DELAY) / 2 - margin - REACH  # position of the first upsampled sample
    normalized = (position - first) * (4 / (up.shape[1] - 1)) - 1  # -1 and 1: centers of the outermost samples

    y = up.T @ x @ up * 2  # sqrt(2) per direction: every second sample was zero
    y = F.grid_sample(y, normalized, mode="bilinear", padding_mode="border", align_corners=True)
    y = down @ y @ down.T / 2
    return y.contiguous(memory_format=torch.channels_last)  # what the networks compute in


def reflect(position: Tensor, side: int) -> Tensor:
    """Reflect positions at 0 and at side - 1 until they lie between."""
    period = 2 * (side - 1)
    position = position.remainder(period)
    return torch.minimum(position, period - position)


def parametrize_color(
    colors: Tensor, uniforms: Tensor, normals: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return brightness, contrast, luma sign, hue angle and saturation of each image, [N] each, for `adjust_color`.

    Args:
        colors: [5, N], 1 where each is applied. uniforms: [2, N], of luma and hue. normals: [3, N], of the others.
    """
    brightness = BRIGHTNESS_STD * normals[0] * colors[0]
    contrast = torch.exp2(CONTRAST_STD * normals[1] * colors[1])
    luma = 1 - 2 * (uniforms[0] * colors[2] >= 0.5).float()
    hue = (2 * uniforms[1] - 1) * math.pi * colors[3]
    return brightness, contrast, luma, hue, torch.exp2(SATURATION_STD * normals[2] * colors[4])


def adjust_color(
    x: Tensor, brightness: Tensor, contrast: Tensor, luma: Tensor, hue: Tensor, saturation: Tensor
) -> Tensor:
    """Transform the colors of images [N, C, r, r]; the parameters are [N].

    The product of the paper's 4x4 matrices (brightness, contrast, luma flip, hue rotation and saturation, in this
    order): the first three act on the luma axis v = (1, 1, 1) / sqrt(3) alone, except that contrast
    scales everything; the last two rotate and scale what is orthogonal to v. Gray images have only luma.
    """
    shape = (-1, 1, 1, 1)
    gray = x.mean(dim=1, keepdim=True)  # x = gray + chroma, orthogonal to each other
    chroma = x - gray
    quarter = (x.roll(1, dims=1) - x.roll(-1, dims=1)) / math.sqrt(3)  # v x chroma: rotated about v by a quarter turn
    turned = chroma * (saturation * hue.cos()).view(shape) + quarter * (saturation * hue.sin()).view(shape)
    return ((gray + brightness.view(shape)) * luma.view(shape) + turned) * contrast.view(shape)
