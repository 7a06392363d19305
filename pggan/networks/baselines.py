"""The GANs that people start from, called as the progressive networks are: one stage, and alpha is not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .layers import at_least_float32
from .operations import LEAKINESS
from .progressive import check_resolution, feature_maps, with_labels


class OneStageGenerator(nn.Module):
    """A first layer, then the rest: latents [N, latent_size] (and one-hot labels) -> images [N, channels, R, R].

    Args:
        resolution: image size in pixels, a power of two. channels: of the images. label_size: classes, 0 for none.
        latent_size: length of the latent vector. first, rest: its layers; the last one is tanh.
    """

    multiscale = batch_norm = False

    def __init__(
        self, resolution: int, channels: int, label_size: int, latent_size: int, first: nn.Module, rest: nn.Module
    ):
        super().__init__()
        check_resolution(resolution)
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.latent_size, self.first, self.rest = latent_size, first, rest

    @property
    def resolutions(self) -> list[int]:
        """What it can draw."""
        return [self.resolution]

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
    ) -> Tensor:
        """Arguments and errors as for the progressive `Generator`; images in [-1, 1]."""
        return self.images(self.features(latents, labels), resolution, alpha)

    def features(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The first layer's output."""
        return self.first(with_labels(latents, labels, self.label_size))

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        """The rest of `forward`."""
        check_stage(resolution, self.resolution)
        return at_least_float32(self.rest(features)).view(-1, self.channels, self.resolution, self.resolution)


class OneStageDiscriminator(nn.Module):
    """Images [N, channels, R, R] in [-1, 1] -> (scores [N], label logits [N, label_size]).

    Args:
        layers: images -> [N, 1 + label_size]. others: as for `OneStageGenerator`.
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
        """Arguments as for the progressive `Discriminator`; ValueError for images of another size."""
        check_stage(resolution, self.resolution)
        if images.shape[1:] != (self.channels, self.resolution, self.resolution):
            raise ValueError(f"images are {list(images.shape)}, not of {self.channels} channels at {self.resolution}")
        apart = images.chunk(batches) if self.batch_norm else [images]
        x = at_least_float32(torch.cat([self.layers(batch) for batch in apart]))
        return x[:, 0], x[:, 1:]


def check_stage(resolution: int | None, only: int) -> None:
    """Raise ValueError for another resolution than the only one."""
    if resolution not in (None, only):
        raise ValueError(f"this network has one stage, {only}x{only}, not {resolution}x{resolution}")


def activation() -> nn.Module:
    """Leaky ReLU of the progressive networks' slope."""
    return nn.LeakyReLU(LEAKINESS)


def dense_layers(sizes: Sequence[int]) -> list[nn.Module]:
    """Dense layers from each size to the next, each but the last followed by leaky ReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return layers[:-1]


class DenseGenerator(OneStageGenerator):
    """Fully connected (Goodfellow et al. 2014, arXiv 1406.2661, with leaky ReLU and tanh).

    Args:
        hidden: sizes of the hidden layers. others: as for `OneStageGenerator`.
    """

    def __init__(self, resolution: int, channels: int, label_size: int, latent_size: int, hidden: Sequence[int]):
        sizes = [latent_size + label_size, *hidden]
        first, rest = dense_layers(sizes[:2]), dense_layers([*sizes[1:], channels * resolution**2])
        super().__init__(
            resolution, channels, label_size, latent_size,
            nn.Sequential(*first, activation()), nn.Sequential(*rest, nn.Tanh()),
        )  # fmt: skip
        start_as_he(self)


class DenseDiscriminator(OneStageDiscriminator):
    """Fully connected; arguments as for `DenseGenerator`."""

    def __init__(self, resolution: int, channels: int, label_size: int, hidden: Sequence[int]):
        layers = dense_layers([channels * resolution**2, *hidden, 1 + label_size])
        super().__init__(resolution, channels, label_size, nn.Sequential(nn.Flatten(), *layers))
        start_as_he(self)


class StridedDiscriminator(OneStageDiscriminator):
    """3x3 convolutions of stride 2, then a dense layer: what the hybrid sets against a dense generator.

    Args:
        hidden: feature maps of the convolutions. others: as for `OneStageGenerator`.
    """

    def __init__(self, resolution: int, channels: int, label_size: int, hidden: Sequence[int]):
        layers: list[nn.Module] = []
        side, maps = resolution, [channels, *hidden]
        for inputs, outputs in pairwise(maps):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), activation()]
            side = (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(maps[-1] * side**2, 1 + label_size)]
        super().__init__(resolution, channels, label_size, nn.Sequential(*layers))
        start_as_he(self)


def dcgan_maps(resolution: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> list[int]:
    """Feature maps at 4x4, 8x8, ... below the image's own size, by the progressive networks' rule."""
    levels = check_resolution(resolution)
    if levels < 3:
        raise ValueError(f"a DCGAN's images are 8x8 or larger, not {resolution}x{resolution}")
    return [feature_maps(r - 1, fmap_base, fmap_decay, fmap_max) for r in range(2, levels)]


class DCGANGenerator(OneStageGenerator):
    """Dense to 4x4, then transposed 4x4 convolutions of stride 2, with batch norm.

    Radford et al. 2016, arXiv 1511.06434, with leaky ReLU where they have ReLU. Arguments as for the progressive one.
    """

    batch_norm = True

    def __init__(
        self, resolution: int, channels: int, label_size: int, latent_size: int, fmap_base: int, fmap_decay: float,
        fmap_max: int,
    ):  # fmt: skip
        maps = dcgan_maps(resolution, fmap_base, fmap_decay, fmap_max)
        first = nn.Sequential(
            nn.Linear(latent_size + label_size, maps[0] * 16, bias=False), nn.Unflatten(1, (maps[0], 4, 4)),
            nn.BatchNorm2d(maps[0]), activation(),
        )  # fmt: skip
        rest: list[nn.Module] = []
        for inputs, outputs in pairwise(maps):
            up = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
            rest += [up, nn.BatchNorm2d(outputs), activation()]
        rest += [nn.ConvTranspose2d(maps[-1], channels, 4, stride=2, padding=1), nn.Tanh()]
        super().__init__(resolution, channels, label_size, latent_size, first, nn.Sequential(*rest))
        self.apply(start_as_dcgan)


class DCGANDiscriminator(OneStageDiscriminator):
    """The generator mirrored: 4x4 convolutions of stride 2 down to 4x4, batch norm but in the first, a dense layer.

    Batch norm's statistics are those of each of `batches`. Args: as for the progressive `Discriminator`.
    """

    batch_norm = True

    def __init__(
        self, resolution: int, channels: int, label_size: int, fmap_base: int, fmap_decay: float, fmap_max: int
    ):
        maps = [channels, *reversed(dcgan_maps(resolution, fmap_base, fmap_decay, fmap_max))]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(maps):
            norm = [nn.BatchNorm2d(outputs)] if layers else []
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=not norm), *norm, activation()]
        layers += [nn.Flatten(), nn.Linear(maps[-1] * 16, 1 + label_size)]
        super().__init__(resolution, channels, label_size, nn.Sequential(*layers))
        self.apply(start_as_dcgan)


@torch.no_grad()
def start_as_he(network: nn.Module) -> None:
    """He's initialisation (He et al. 2015): torch's own shrinks what depends on the latent with every layer."""
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        slope = 1 if layer is layers[-1] else LEAKINESS
        nn.init.kaiming_normal_(layer.weight, slope)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_as_dcgan(module: nn.Module) -> None:
    """Weights from N(0, 0.02) (Radford et al. 2016, section 4), those of batch norm around 1."""
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
