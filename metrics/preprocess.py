"""From uint8 images of any size to Inception's input of 299x299, in the three ways that published numbers use."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INPUT_SIZE = 299


class Resize(NamedTuple):
    """A resize as one matrix [299, side] an axis; pixels v in [0, 255] become v / `half` - 1."""

    matrix: Callable[[int], Tensor]
    half: float


def tf1(side: int) -> Tensor:
    """Bilinear as TensorFlow 1 does it: no antialias, output i stands at i * side / 299, corners at pixel 0."""
    position = np.arange(INPUT_SIZE, dtype=np.float32) * np.float32(side / INPUT_SIZE)
    low = np.floor(position).astype(int)
    weight = position - low
    matrix = np.zeros((INPUT_SIZE, side), np.float32)
    matrix[np.arange(INPUT_SIZE), low] += 1 - weight
    matrix[np.arange(INPUT_SIZE), np.minimum(low + 1, side - 1)] += weight
    return torch.from_numpy(matrix)


def bilinear(side: int) -> Tensor:
    """Bilinear between pixel centres, no antialias: what pytorch-fid does."""
    return interpolated(side, mode="bilinear", antialias=False)


def antialiased_bicubic(side: int) -> Tensor:
    """Bicubic (a = -0.5) whose support grows where it shrinks: Pillow's, what clean-fid does (Parmar et al. 2022)."""
    return interpolated(side, mode="bicubic", antialias=True)


def interpolated(side: int, **how) -> Tensor:
    """PyTorch's own resize of one axis as a matrix: what it makes of the unit vectors."""
    unit_vectors = torch.eye(side)[None, None]
    return F.interpolate(unit_vectors, size=(INPUT_SIZE, side), align_corners=False, **how)[0, 0]


RESIZES = {
    "tf1": Resize(tf1, 128),
    "pytorch-fid": Resize(bilinear, 127.5),
    "clean": Resize(antialiased_bicubic, 128),
}


@lru_cache(maxsize=8)
def matrix(name: str, side: int) -> Tensor:
    """The resampling of one axis from `side` pixels to 299, as a matrix."""
    return RESIZES[name].matrix(side)


def inception_input(images: Tensor, resize: str = "tf1") -> Tensor:
    """uint8 [N, C, H, W], 1 to 4 channels -> float32 [N, 3, 299, 299] in about [-1, 1].

    Args:
        resize: "tf1", as in the 2015 graph and torch-fidelity; "pytorch-fid"; "clean", as in clean-fid.
    """
    x = as_rgb(images).float()
    rows, columns = (matrix(resize, side).to(x.device) for side in x.shape[2:])
    x = rows @ (x @ columns.T)
    return x.clamp_(0, 255).div_(RESIZES[resize].half).sub_(1)  # bicubic overshoots


def as_rgb(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, 3, H, W]: one channel is repeated, an alpha channel left out."""
    colours = images[:, :1] if images.shape[1] < 3 else images[:, :3]
    return colours.expand(-1, 3, -1, -1)
