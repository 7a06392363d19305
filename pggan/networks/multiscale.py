"""MSG-GAN (Karnewar and Wang 2020, arXiv 1903.06048): every resolution is trained at the same time.

D receives the generated image of every resolution, so that G gets gradients at each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .layers import EqualizedConv2d, disable_equalized_lr, downscale, promote_to_float32
from .operations import leaky_relu
from .progressive import Discriminator, Generator


class MultiScaleGenerator(Generator):
    """Progressive generator that runs all its RGB layers (arXiv 1903.06048, section 2.1).

    `forward` returns the images of one resolution, `pyramid` those of every resolution. There are no fades: `alpha` is
    accepted for the common interface and ignored.
    """

    multiscale = True

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        return super().images(features, resolution)

    def pyramid(self, latents: Tensor, labels: Tensor | None = None) -> list[Tensor]:
        """Return images [N, channels, r, r] for r = 4, 8, ..., up to the network's resolution."""
        x = self.norm(leaky_relu(self.conv(self.features(latents, labels))))
        images = [promote_to_float32(self.to_rgb[0](x))]
        for block, to_rgb in zip(self.blocks, list(self.to_rgb)[1:], strict=True):
            x = block(x)
            images.append(promote_to_float32(to_rgb(x)))
        return images


class MultiScaleDiscriminator(Discriminator):
    """Progressive discriminator that receives the image of every resolution.

    After each block, its output is concatenated with the image of that resolution, and a linear 1x1 convolution without
    bias reduces the result to the block's width (phi_cat_lin of arXiv 1903.06048, section 2.1). Each block begins with
    minibatch stddev. Both are as in the authors' code for MSG-StyleGAN (github.com/akanimax/msg-stylegan-tf), which
    also blurs before downscaling, as StyleGAN does; this network does not.

    Args:
        args, kwargs: arguments of `Discriminator`.
        equalized_lr: see `Generator`.
    """

    multiscale = True

    def __init__(self, *args: Any, equalized_lr: bool = True, **kwargs: Any):
        super().__init__(*args, **kwargs)
        heads: list[Any] = list(self.from_rgb)
        widths = [len(head.weight) for head in heads]  # at 4x4, 8x8, ...
        # The join of a resolution is as wide as that resolution's from_rgb, which it replaces.
        self.join = nn.ModuleList(
            EqualizedConv2d(width + self.channels, width, kernel_size=1, has_bias=False) for width in widths[:-1]
        )
        self.from_rgb = self.from_rgb[-1:]  # lower resolutions come in through `join`
        if self.mbstd:
            for block, width in zip(self.blocks, widths[1:], strict=True):
                block.conv = EqualizedConv2d(width + 1, width)  # one more map from minibatch stddev
        if not equalized_lr:
            disable_equalized_lr(self)

    def forward(
        self,
        images: Tensor | list[Tensor],
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
        batches: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Return scores [N] and label logits [N, label_size].

        Args:
            images: one tensor [N, channels, r, r] per resolution from 4x4 up, as `pyramid` returns them; or only the
                largest, which is then box-downscaled to the others.
            resolution: ignored, as is `alpha`: all resolutions always run.
            batches: see `Discriminator.forward`.

        Raises:
            ValueError: the images' sizes are not the network's resolutions.
        """
        scales = images if isinstance(images, list) else pyramid(images)
        sizes = [4 << level for level in range(len(self.blocks) + 1)]
        if [x.shape[1:] for x in scales] != [(self.channels, size, size) for size in sizes]:
            raise ValueError(f"images have sizes {[x.shape[-1] for x in scales]} in pixels, expected {sizes}")
        x = leaky_relu(self.from_rgb[0](scales[-1]))  # from the full resolution down
        for level in reversed(range(len(self.blocks))):
            x = self.blocks[level](self.mbstd(x, batches) if self.mbstd else x)
            x = self.join[level](torch.cat([x, scales[level]], dim=1))
        return self.score(x, batches)


def pyramid(images: Tensor) -> list[Tensor]:
    """Return images [N, C, r, r] at 4x4, 8x8, ..., r x r, each the 2x2 box average of the next."""
    scales = [images]
    while scales[0].shape[-1] > 4:
        scales.insert(0, downscale(scales[0]))
    return scales
