"""Resize uint8 images to Inception's 299x299 input in the three ways behind published numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INPUT_SIZE = 299  # pixels, of the 2015 graph


class Resize(NamedTuple):
    """A way to resize and scale.

    Attributes:
        matrix: returns the resampling matrix [299, side] of one axis. All three resizes are linear and separable.
        half_range: pixels v in [0, 255] become v / half - 1.
    """

    matrix: Callable[[int], Tensor]
    half_range: float


def tf1(side: int) -> Tensor:
    """Return the matrix of TensorFlow 1's bilinear resize.

    It does not antialias, and output pixel i lies at i * side / 299, so that the first pixels coincide but the last
    ones do not (align_corners=False, half_pixel_centers=False).
    """
    # float32, like TensorFlow's own kernel
    position = np.arange(INPUT_SIZE, dtype=np.float32) * np.float32(side / INPUT_SIZE)
    low = np.floor(position).astype(int)
    weight = position - low
    matrix = np.zeros((INPUT_SIZE, side), np.float32)
    matrix[np.arange(INPUT_SIZE), low] += 1 - weight
    matrix[np.arange(INPUT_SIZE), np.minimum(low + 1, side - 1)] += weight
    return torch.from_numpy(matrix)


def bilinear(side: int) -> Tensor:
    """Return the matrix of pytorch-fid's resize: bilinear between pixel centers, without antialiasing."""
    return interpolation_matrix(side, mode="bilinear", antialias=False)


def antialiased_bicubic(side: int) -> Tensor:
    """Return the matrix of clean-fid's resize (Parmar et al. 2022, arXiv 2104.11222).

    That is Pillow's bicubic (a = -0.5) with antialiasing: its support grows with the factor by which an image shrinks.
    """
    return interpolation_matrix(side, mode="bicubic", antialias=True)


def interpolation_matrix(side: int, **options) -> Tensor:
    """Return torch's resize of one axis as a matrix, found by resizing the unit vectors."""
    unit_vectors = torch.eye(side)[None, None]
    return F.interpolate(unit_vectors, size=(INPUT_SIZE, side), align_corners=False, **options)[0, 0]


# 128 and 127.5: the 2015 graph computes (v - 128) / 128, which clean-fid keeps; pytorch-fid computes 2 v / 255 - 1.
RESIZES = {
    "tf1": Resize(tf1, 128),
    "pytorch-fid": Resize(bilinear, 127.5),
    "clean": Resize(antialiased_bicubic, 128),
}


@lru_cache(maxsize=8)  # enough for rows and columns of two image sizes in each resize
def resize_matrix(name: str, side: int) -> Tensor:
    """Return the matrix [299, side] that resizes one axis."""
    return RESIZES[name].matrix(side)


def inception_input(images: Tensor, resize: str = "tf1") -> Tensor:
    """Return images as Inception's input, float32 [N, 3, 299, 299] in about [-1, 1].

    Args:
        images: uint8 [N, C, H, W] with 1 to 4 channels.
        resize: "tf1", as in the 2015 graph and torch-fidelity; "pytorch-fid"; "clean", as in clean-fid.
    """
    x = as_rgb(images).float()
    rows, columns = (resize_matrix(resize, side).to(x.device) for side in x.shape[2:])
    x = rows @ (x @ columns.T)  # [N, 3, 299, 299]
    return x.clamp_(0, 255).div_(RESIZES[resize].half_range).sub_(1)  # clamp: bicubic overshoots at edges


def as_rgb(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] as RGB [N, 3, H, W]: gray is repeated, alpha dropped.

    Colors under transparent pixels therefore count like any others.
    """
    colors = images[:, :1] if images.shape[1] < 3 else images[:, :3]
    return colors.expand(-1, 3, -1, -1)
