"""Baseline GANs that do not grow: fully connected, DCGAN, and a hybrid of the two.

They have the progressive networks' interface with a single stage. `alpha` is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import promote_to_float32
from .operations import LEAKY_SLOPE
from .progressive import append_labels, check_resolution, count_feature_maps


class OneStageGenerator(nn.Module):
    """Base of generators with a single stage, in two parts so that truncation can act between them.

    Args:
        resolution: image size R in pixels, a power of two from 4 to 1024.
        channels: image channels.
        label_size: number of classes, 0 for unconditional.
        latent_size: length of the latent vector.
        first: maps latents and one-hot labels [N, latent_size + label_size] to features.
        rest: maps features to images, flat or [N, channels, R, R].
    """

    multiscale = batch_norm = False  # the training loop asks every network for these two

    def __init__(
        self, resolution: int, channels: int, label_size: int, latent_size: int, first: nn.Module, rest: nn.Module
    ):
        super().__init__()
        check_resolution(resolution)
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.latent_size, self.first, self.rest = latent_size, first, rest

    @property
    def resolutions(self) -> list[int]:
        """The one resolution it can generate, in pixels."""
        return [self.resolution]

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
    ) -> Tensor:
        """Generate images [N, channels, R, R] in [-1, 1]; without tanh, that is not exact.

        Arguments and errors: see the progressive `Generator`.
        """
        return self.images(self.features(latents, labels), resolution, alpha)

    def features(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the first layer's output."""
        return self.first(append_labels(latents, labels, self.label_size))

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        """Return the images for the first layer's output: the rest of `forward`."""
        check_stage(resolution, self.resolution)
        return promote_to_float32(self.rest(features)).view(-1, self.channels, self.resolution, self.resolution)


class OneStageDiscriminator(nn.Module):
    """Base of discriminators with a single stage.

    Args:
        resolution: image size R in pixels, a power of two from 4 to 1024.
        channels: image channels.
        label_size: number of classes, 0 for unconditional.
        layers: maps images [N, channels, R, R] to the score and label logits, [N, 1 + label_size].
    """

    multiscale = batch_norm = False

    def __init__(self, resolution: int, channels: int, label_size: int, layers: nn.Module):
        super().__init__()
        check_resolution(resolution)
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.layers = layers

    def forward(
        self, images: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0, batches: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return scores [N] and label logits [N, label_size]. Arguments: see the progressive `Discriminator`.

        Raises:
            ValueError: the images have another size.
        """
        check_stage(resolution, self.resolution)
        if images.shape[1:] != (self.channels, self.resolution, self.resolution):
            size = f"{self.channels}, {self.resolution}, {self.resolution}"
            raise ValueError(f"images have shape {list(images.shape)}, expected [N, {size}]")
        # Batch norm's statistics depend on the batch, so each one needs its own pass.
        apart = images.chunk(batches) if self.batch_norm else [images]
        x = promote_to_float32(torch.cat([self.layers(batch) for batch in apart]))
        return x[:, 0], x[:, 1:]  # the first output is the score, the others are label logits


def check_stage(resolution: int | None, only: int) -> None:
    """Raise ValueError if `resolution` is neither None nor the network's only one."""
    if resolution not in (None, only):
        raise ValueError(f"this network has only the stage {only}x{only}, not {resolution}x{resolution}")


def leaky_relu() -> nn.Module:
    """Return a leaky ReLU with the progressive networks' slope."""
    return nn.LeakyReLU(LEAKY_SLOPE)


def dense_layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Return dense layers from each size to the next, with leaky ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), leaky_relu()]
    return layers[:-1]  # without the activation after the last one


class DenseGenerator(OneStageGenerator):
    """Fully connected generator (Goodfellow et al. 2014, arXiv 1406.2661), here with leaky ReLU and tanh.

    Args:
        resolution: see `OneStageGenerator`, like the next three.
        hidden: sizes of the hidden layers.
    """

    def __init__(self, resolution: int, channels: int, label_size: int, latent_size: int, hidden: Sequence[int]):
        sizes = [latent_size + label_size, *hidden]
        first = nn.Sequential(*dense_layers(sizes[:2]), leaky_relu())
        rest = nn.Sequential(*dense_layers([*sizes[1:], channels * resolution**2]), nn.Tanh())
        super().__init__(resolution, channels, label_size, latent_size, first, rest)
        init_he(self)


class DenseDiscriminator(OneStageDiscriminator):
    """Fully connected discriminator. Arguments: see `DenseGenerator`."""

    def __init__(self, resolution: int, channels: int, label_size: int, hidden: Sequence[int]):
        layers = dense_layers([channels * resolution**2, *hidden, 1 + label_size])
        super().__init__(resolution, channels, label_size, nn.Sequential(nn.Flatten(), *layers))
        init_he(self)


class StridedDiscriminator(OneStageDiscriminator):
    """3x3 convolutions with stride 2, then a dense layer: the discriminator of `--arch hybrid`.

    Args:
        resolution: see `OneStageDiscriminator`, like the next two.
        hidden: feature maps of the convolutions.
    """

    def __init__(self, resolution: int, channels: int, label_size: int, hidden: Sequence[int]):
        layers: list[nn.Module] = []
        side, maps = resolution, [channels, *hidden]
        for inputs, outputs in pairwise(maps):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), leaky_relu()]
            side = (side + 1) // 2  # output size of a 3x3 convolution with stride 2 and padding 1
        layers += [nn.Flatten(), nn.Linear(maps[-1] * side**2, 1 + label_size)]
        super().__init__(resolution, channels, label_size, nn.Sequential(*layers))
        init_he(self)


def dcgan_maps(resolution: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> list[int]:
    """Return a DCGAN's feature maps at 4x4, 8x8, ..., up to half the image size.

    The numbers follow the progressive networks' formula, so that both kinds of network have the same widths.

    Raises:
        ValueError: the image is smaller than 8x8, or its size is no power of two.
    """
    levels = check_resolution(resolution)
    if levels < 3:
        raise ValueError(f"DCGAN needs images of 8x8 pixels or more, not {resolution}x{resolution}")
    return [count_feature_maps(r - 1, fmap_base, fmap_decay, fmap_max) for r in range(2, levels)]


class DCGANGenerator(OneStageGenerator):
    """DCGAN generator (Radford et al. 2016, arXiv 1511.06434).

    A dense layer to 4x4, then 4x4 transposed convolutions with stride 2, all with batch norm but the last.

    Args:
        activation: "relu", the paper's, or "leaky_relu", of checkpoints from before 2026-11-27, which do not record it.
            For the others see the progressive `Generator`.
    """

    batch_norm = True

    def __init__(
        self,
        resolution: int,
        channels: int,
        label_size: int,
        latent_size: int,
        fmap_base: int,
        fmap_decay: float,
        fmap_max: int,
        activation: str = "leaky_relu",
    ):
        maps = dcgan_maps(resolution, fmap_base, fmap_decay, fmap_max)
        make_activation = nn.ReLU if activation == "relu" else leaky_relu
        # no bias before batch norm, which would subtract it again
        first = nn.Sequential(
            nn.Linear(latent_size + label_size, maps[0] * 16, bias=False),
            nn.Unflatten(1, (maps[0], 4, 4)),
            nn.BatchNorm2d(maps[0]),
            make_activation(),
        )
        rest: list[nn.Module] = []
        for inputs, outputs in pairwise(maps):
            # a 4x4 kernel with stride 2 and padding 1 doubles the size exactly
            up = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
            rest += [up, nn.BatchNorm2d(outputs), make_activation()]
        rest += [nn.ConvTranspose2d(maps[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
        super().__init__(resolution, channels, label_size, latent_size, first, nn.Sequential(*rest))
        self.apply(init_dcgan)


class DCGANDiscriminator(OneStageDiscriminator):
    """DCGAN discriminator (Radford et al. 2016, arXiv 1511.06434), the generator mirrored.

    4x4 convolutions with stride 2 down to 4x4, all with batch norm but the first, then a dense layer. Batch norm uses
    the statistics of each of `batches` separately. Arguments: see the progressive `Discriminator`.
    """

    batch_norm = True

    def __init__(
        self, resolution: int, channels: int, label_size: int, fmap_base: int, fmap_decay: float, fmap_max: int
    ):
        # from the images down to 4x4
        maps = [channels, *reversed(dcgan_maps(resolution, fmap_base, fmap_decay, fmap_max))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(maps):
            norm = [nn.BatchNorm2d(outputs)] if layers else []  # none at D's input (Radford et al., section 3)
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not norm), *norm, leaky_relu()]
        layers += [nn.Flatten(), nn.Linear(maps[-1] * 16, 1 + label_size)]  # 16: the pixels of 4x4
        super().__init__(resolution, channels, label_size, nn.Sequential(*layers))
        self.apply(init_dcgan)


@torch.no_grad()
def init_he(network: nn.Module) -> None:
    """Apply He's initialization (He et al. 2015, arXiv 1502.01852).

    torch's default shrinks the signal in every layer, so that after a few of them the biases outweigh the latent.
    """
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        slope = 1 if layer is layers[-1] else LEAKY_SLOPE  # 1: the output is linear
        nn.init.kaiming_normal_(layer.weight, slope)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def init_dcgan(module: nn.Module) -> None:
    """Draw a layer's weights from N(0, 0.02), those of batch norm from N(1, 0.02).

    0.02 is the standard deviation of Radford et al. 2016, section 4; the batch norm part is their code's.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
