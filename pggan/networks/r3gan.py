"""R3GAN's networks (Huang et al. 2024, arXiv 2501.05441, section 3): residual blocks with grouped convolutions.

There is no normalization. The initialization keeps the variance of activations instead: every residual branch starts
at zero, and the convolutions before are scaled down with the number of blocks (Zhang et al. 2019, Fixup, arXiv
1901.09321). The numbers are those of the authors' code. As for the other baselines, classes are one-hot inputs of G and
extra outputs of D (AC-GAN), where the authors embed them and condition D on them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .baselines import OneStageDiscriminator, OneStageGenerator
from .operations import LEAKY_SLOPE, convolve, leaky_relu
from .progressive import check_resolution, count_feature_maps

BLOCKS_PER_STAGE = 2  # in all of the authors' configurations, as are the next two
EXPANSION = 2  # width of a residual branch divided by the width of the block
GROUP_CHANNELS = 16  # channels of a branch that are convolved together
RESAMPLING_FILTER = (1, 3, 3, 1)  # [1, 2, 1] convolved with the box [1, 1], in each direction
LEAKY_GAIN = math.sqrt(2 / (1 + LEAKY_SLOPE**2))  # keeps the variance constant through leaky ReLU (He et al. 2015)


class Convolution2d(nn.Module):
    """Convolution that keeps the size, drawn from N(0, gain^2 / fan_in); the bias, if any, starts at zero."""

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, gain: float = 1.0, groups: int = 1, has_bias: bool = False
    ):
        super().__init__()
        shape = outputs, inputs // groups, kernel_size, kernel_size
        self.weight = nn.Parameter(torch.randn(shape) * gain / math.sqrt(math.prod(shape[1:])))
        self.bias = nn.Parameter(torch.zeros(outputs)) if has_bias else None
        self.padding, self.groups = kernel_size // 2, groups

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.weight, self.bias, padding=self.padding, groups=self.groups)


class ResidualBlock(nn.Module):
    """x + f(x), where f is a 1x1 convolution, a grouped 3x3 one and a 1x1 one, with leaky ReLU between them.

    Args:
        width: channels; in groups of 16 in f if it is a multiple of 8, else f has one group.
        blocks: residual blocks of the whole network, L; f's first two layers are scaled by L^(-1/4), its last by 0.
    """

    def __init__(self, width: int, blocks: int):
        super().__init__()
        inner, gain = width * EXPANSION, LEAKY_GAIN * blocks**-0.25  # -1 / (2m - 2) for m = 3 layers (Fixup)
        groups = 1 if inner % GROUP_CHANNELS else inner // GROUP_CHANNELS
        self.expand = Convolution2d(width, inner, 1, gain, has_bias=True)
        self.conv = Convolution2d(inner, inner, 3, gain, groups, has_bias=True)
        self.reduce = Convolution2d(inner, width, 1, gain=0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.reduce(leaky_relu(self.conv(leaky_relu(self.expand(x)))))


class Resample(nn.Module):
    """Double or halve the size with a low-pass filter, and change the width by a 1x1 convolution at the smaller size.

    The border is padded with zeros.

    Args:
        up: whether to double the size instead of halving it.
    """

    def __init__(self, inputs: int, outputs: int, up: bool):
        super().__init__()
        self.up = up
        self.kernel: Tensor
        self.project: nn.Module = nn.Identity() if inputs == outputs else Convolution2d(inputs, outputs, 1)
        taps = torch.tensor(RESAMPLING_FILTER) / sum(RESAMPLING_FILTER)
        # up: times 4, because three of four pixels in between are zero
        self.register_buffer("kernel", taps.outer(taps).mul(4 if up else 1)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return self.filter(self.project(x))
        return self.project(self.filter(x))

    def filter(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, -1, -1, -1)
        return convolve(x, kernel, None, stride=2, padding=1, transposed=self.up, groups=channels)


class GenerativeBasis(nn.Module):
    """Map latents [N, inputs] to [N, width, 4, 4]: learned 4x4 maps, each scaled by a linear function of the latent."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, 4, 4))
        self.scale = linear(inputs, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.basis * self.scale(x)[:, :, None, None]


class DiscriminativeBasis(nn.Module):
    """Map [N, width, 4, 4] to [N, outputs]: each map is summed with its own 4x4 weights, then a dense layer follows."""

    def __init__(self, width: int, outputs: int):
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, 4, 4) / 4)  # fan_in 16
        self.output = linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output((x * self.basis).sum(dim=(2, 3)))


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a dense layer without bias, drawn from N(0, 1 / inputs)."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer


def stage_widths(resolution: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> list[int]:
    """Return the widths at 4x4, 8x8, ..., up to the image size, by the progressive networks' formula.

    Base 12288, decay 1 and max 768 give the authors' widths for CIFAR-10 and FFHQ.
    """
    levels = check_resolution(resolution)
    return [count_feature_maps(r - 1, fmap_base, fmap_decay, fmap_max) for r in range(2, levels + 1)]


def residual_blocks(width: int, stages: int) -> list[nn.Module]:
    """Return one stage's residual blocks."""
    return [ResidualBlock(width, stages * BLOCKS_PER_STAGE) for _ in range(BLOCKS_PER_STAGE)]


class R3GANGenerator(OneStageGenerator):
    """R3GAN's generator; its output is linear. Arguments: see the progressive `Generator`."""

    def __init__(
        self,
        resolution: int,
        channels: int,
        label_size: int,
        latent_size: int,
        fmap_base: int,
        fmap_decay: float,
        fmap_max: int,
    ):
        widths = stage_widths(resolution, fmap_base, fmap_decay, fmap_max)
        rest: list[nn.Module] = []
        for stage, width in enumerate(widths):
            rest += [Resample(widths[stage - 1], width, up=True)] if stage else []
            rest += residual_blocks(width, len(widths))
        rest.append(Convolution2d(widths[-1], channels, 1))
        first = GenerativeBasis(latent_size + label_size, widths[0])
        super().__init__(resolution, channels, label_size, latent_size, first, nn.Sequential(*rest))


class R3GANDiscriminator(OneStageDiscriminator):
    """R3GAN's discriminator, the generator mirrored. Arguments: see the progressive `Discriminator`."""

    def __init__(
        self, resolution: int, channels: int, label_size: int, fmap_base: int, fmap_decay: float, fmap_max: int
    ):
        widths = stage_widths(resolution, fmap_base, fmap_decay, fmap_max)
        layers: list[nn.Module] = [Convolution2d(channels, widths[-1], 1)]
        for stage, width in reversed(list(enumerate(widths))):
            layers += residual_blocks(width, len(widths))
            layers += [Resample(width, widths[stage - 1], up=False)] if stage else []
        layers.append(DiscriminativeBasis(widths[0], 1 + label_size))
        super().__init__(resolution, channels, label_size, nn.Sequential(*layers))
