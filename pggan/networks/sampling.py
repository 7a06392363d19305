"""Turn latents into uint8 images."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .architectures import AnyGenerator

# Pixels per forward pass, which bounds the memory for activations: 64 images at 128x128, 1 at 1024x1024.
MAX_PIXELS = 64 * 128**2


def to_one_hot(labels: Tensor | None, label_size: int) -> Tensor | None:
    """Return class indices int64 [N] as one-hot float32 [N, label_size]; None stays None."""
    return None if labels is None else F.one_hot(labels, label_size).float()


def to_uint8(images: Tensor) -> Tensor:
    """Convert images from [-1, 1] to 0..255, rounded and clipped, as the official code does."""
    return (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def generate(
    generator: AnyGenerator, latents: Tensor, labels: Tensor | None, resolution: int, alpha: float = 1.0
) -> Tensor:
    """Return uint8 images [N, C, r, r], on the CPU, for latents [N, L] and class indices [N].

    The images are generated a bounded number at a time (MAX_PIXELS), on the generator's own device.

    Args:
        labels: class indices int64 [N] for conditional generators, else None.
        resolution: stage to run, in pixels.
        alpha: weight of the newest block, in [0, 1].
    """
    device = next(generator.parameters()).device
    labels = to_one_hot(labels, generator.label_size)
    images = []
    for part in range(0, len(latents), at_once := max(MAX_PIXELS // resolution**2, 1)):
        z, y = (None if t is None else t[part : part + at_once].to(device) for t in (latents, labels))
        images.append(to_uint8(generator(z, y, resolution=resolution, alpha=alpha)).cpu())
    return torch.cat(images)
