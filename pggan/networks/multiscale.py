"""The multi-scale GAN: every resolution trained at once, with gradients from each (MSG-GAN: Karnewar and Wang 2020)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .layers import EqualizedConv2d, at_least_float32, downscale, without_equalized_lr
from .operations import leaky_relu
from .progressive import Discriminator, Generator


class MultiScaleGenerator(Generator):
    """The progressive generator with all its RGB layers at work at once (arXiv 1903.06048, section 2.1).

    `forward` gives the images of one resolution, `pyramid` those of every one. alpha is not looked at.
    """

    multiscale = True

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        return super().images(features, resolution)

    def pyramid(self, latents: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Images [N, channels, r, r] for r = 4, 8, ... up to the network's own."""
        x = self.norm(leaky_relu(self.conv(self.features(latents, labels))))
        images = [at_least_float32(self.to_rgb[0](x))]
        for block, to_rgb in zip(self.blocks, list(self.to_rgb)[1:], strict=True):
            x = block(x)
            images.append(at_least_float32(to_rgb(x)))
        return images


class MultiScaleDiscriminator(Discriminator):
    """The progressive discriminator that sees every scale.

    Under each block, its features are joined with the image of their resolution and brought back to their number by a
    1x1 convolution (phi_cat_lin of arXiv 1903.06048, section 2.1). Minibatch stddev is at 4x4 only; the authors have
    one in each block.
    """

    multiscale = True

    def __init__(self, *args: Any, equalized_lr: bool = True, **kwargs: Any):
        kwargs["equalized_lr"] = equalized_lr
        super().__init__(*args, **kwargs)
        lower: list[Any] = list(self.from_rgb)[:-1]
        widths = [len(layer.bias) for layer in lower]
        self.join = nn.ModuleList(EqualizedConv2d(width + self.channels, width, kernel_size=1) for width in widths)
        self.from_rgb = self.from_rgb[-1:]
        if not equalized_lr:
            without_equalized_lr(self.join)

    def forward(
        self,
        images: Tensor | list[Tensor],
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
        batches: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """images: of every scale from 4x4 up, as from `pyramid`; or of the largest, whose smaller ones are made."""
        scales = images if isinstance(images, list) else pyramid(images)
        sizes = [4 << level for level in range(len(self.blocks) + 1)]
        if [x.shape[1:] for x in scales] != [(self.channels, size, size) for size in sizes]:
            raise ValueError(f"images are of {[x.shape[-1] for x in scales]} pixels, not of {sizes}")
        x = leaky_relu(self.from_rgb[0](scales[-1]))
        for level in reversed(range(len(self.blocks))):
            x = torch.cat([self.blocks[level](x), scales[level]], dim=1)
            x = leaky_relu(self.join[level](x))
        return self.score(x, batches)


def pyramid(images: Tensor) -> list[Tensor]:
    """Images [N, C, r, r] at 4x4, 8x8, ..., r x r, each the box average of the next."""
    scales = [images]
    while scales[0].shape[-1] > 4:
        scales.insert(0, downscale(scales[0]))
    return scales
