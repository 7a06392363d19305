"""Resize uint8 images to a network's input, such as Inception's 299x299, in the three ways behind published numbers."""

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
        matrix: returns the resampling matrix [size, side] of one axis, for the input's size and the image's side. All
            three resizes are linear and separable.
        half_range: for Inception, pixels v in [0, 255] become v / half_range - 1.
    """

    matrix: Callable[[int, int], Tensor]
    half_range: float


def tf1(size: int, side: int) -> Tensor:
    """Return the matrix of TensorFlow 1's bilinear resize.

    It does not antialias, and output pixel i lies at i * side / size, so that the first pixels coincide but the last
    ones do not (align_corners=False, half_pixel_centers=False).
    """
    # float32, like TensorFlow's own kernel
    position = np.arange(size, dtype=np.float32) * np.float32(side / size)
    low = np.floor(position).astype(int)
    weight = position - low
    matrix = np.zeros((size, side), np.float32)
    matrix[np.arange(size), low] += 1 - weight
    matrix[np.arange(size), np.minimum(low + 1, side - 1)] += weight
    return torch.from_numpy(matrix)


def bilinear(size: int, side: int) -> Tensor:
    """Return the matrix of pytorch-fid's resize: bilinear between pixel centers, without antialiasing."""
    return interpolation_matrix(size, side, mode="bilinear", antialias=False)


def antialiased_bicubic(size: int, side: int) -> Tensor:
    """Return the matrix of clean-fid's resize (Parmar et al. 2022, arXiv 2104.11222).

    That is Pillow's bicubic (a = -0.5) with antialiasing: its support grows with the factor by which an image shrinks.
    """
    return interpolation_matrix(size, side, mode="bicubic", antialias=True)


def interpolation_matrix(size: int, side: int, **options) -> Tensor:
    """Return torch's resize of one axis as a matrix, found by resizing the unit vectors."""
    unit_vectors = torch.eye(side)[None, None]
    return F.interpolate(unit_vectors, size=(size, side), align_corners=False, **options)[0, 0]


# 128 and 127.5: the 2015 graph computes (v - 128) / 128, which clean-fid keeps; pytorch-fid computes 2 v / 255 - 1.
RESIZES = {
    "tf1": Resize(tf1, 128),
    "pytorch-fid": Resize(bilinear, 127.5),
    "clean": Resize(antialiased_bicubic, 128),
}


@lru_cache(maxsize=8)  # enough for rows and columns of two image sizes in each resize
def resize_matrix(name: str, size: int, side: int) -> Tensor:
    """Return the matrix [size, side] that resizes one axis."""
    return RESIZES[name].matrix(size, side)


def resize_images(images: Tensor, resize: str, size: int) -> Tensor:
    """Return images resized to RGB, float32 [N, 3, size, size] in [0, 255].

    Args:
        images: uint8 [N, C, H, W] with 1 to 4 channels.
        resize: "tf1", as in the 2015 graph and torch-fidelity; "pytorch-fid"; "clean", as in clean-fid.
    """
    x = as_rgb(images).float()
    rows, columns = (resize_matrix(resize, size, side).to(x.device) for side in x.shape[2:])
    x = rows @ (x @ columns.T)  # [N, 3, size, size]
    return x.clamp_(0, 255)  # bicubic overshoots at edges


def inception_input(images: Tensor, resize: str = "tf1") -> Tensor:
    """Return images as Inception's input, float32 [N, 3, 299, 299] in about [-1, 1]; see `resize_images`."""
    return resize_images(images, resize, INPUT_SIZE).div_(RESIZES[resize].half_range).sub_(1)


# mean and standard deviation of ImageNet's pixels in [0, 1], from the models' own code
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision, DINOv2
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own training images


def standardize(images: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Return RGB images [N, 3, H, W] in [0, 255] minus the mean and divided by the deviation of each channel."""
    mean, deviation = (torch.tensor(x, device=images.device).view(3, 1, 1) for x in statistics)
    return (images / 255 - mean) / deviation


def as_rgb(images: Tensor) -> Tensor:
    """Return images [N, C, H, W] as RGB [N, 3, H, W]: gray is repeated, alpha dropped.

    Colors under transparent pixels therefore count like any others.
    """
    colors = images[:, :1] if images.shape[1] < 3 else images[:, :3]
    return colors.expand(-1, 3, -1, -1)
