"""The progressive networks, whole from the start: every block exists, (resolution, alpha) says what runs."""

import torch
from torch import Tensor, nn

from .layers import (
    EqualizedConv2d,
    EqualizedLatent,
    EqualizedLinear,
    FusedDownConv2d,
    FusedUpConv2d,
    MinibatchStdDev,
    PixelNorm,
    at_least_float32,
    downscale,
    upscale,
    without_equalized_lr,
)
from .operations import leaky_relu

MIN_RESOLUTION, MAX_RESOLUTION = 4, 1024
FIRST_LAYERS = ("paper", "no-norm", "pixel-bias")


def check_resolution(resolution: int, largest: int = MAX_RESOLUTION) -> int:
    """Return log2(resolution), or raise ValueError unless it is a power of two from 4 to `largest`."""
    if resolution < MIN_RESOLUTION or resolution > largest or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution} is not a power of two from {MIN_RESOLUTION} to {largest}")
    return resolution.bit_length() - 1


def feature_maps(stage: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> int:
    """nf(stage); the block at resolution 2^r works with nf(r-1) feature maps (official code; paper, table 2)."""
    return min(int(fmap_base / 2 ** (stage * fmap_decay)), fmap_max)


def is_fading(alpha: float | Tensor) -> bool:
    """The number 1 means a stabilised stage, whose lower path is not run; a tensor is always a fade."""
    return isinstance(alpha, Tensor) or alpha != 1


def with_labels(latents: Tensor, labels: Tensor | None, label_size: int) -> Tensor:
    """Latents [N, L] and one-hot labels [N, label_size] -> [N, L + label_size], what generators begin with.

    Raises:
        ValueError: labels missing where the generator was built with them.
    """
    if not label_size:
        return latents
    if labels is None:
        raise ValueError(f"this generator is conditional: labels [N, {label_size}] are needed")
    return torch.cat([latents, labels.to(latents.dtype)], dim=1)


class GeneratorBlock(nn.Module):
    """Doubles the resolution: upscale, then twice 3x3 convolution, leaky ReLU, pixel norm."""

    def __init__(self, inputs: int, outputs: int, fused_scale: bool, norm: nn.Module):
        super().__init__()
        self.fused_scale = fused_scale
        self.up = (FusedUpConv2d if fused_scale else EqualizedConv2d)(inputs, outputs)
        self.conv = EqualizedConv2d(outputs, outputs)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x if self.fused_scale else upscale(x))
        x = self.norm(leaky_relu(x))
        return self.norm(leaky_relu(self.conv(x)))


class DiscriminatorBlock(nn.Module):
    """Halves the resolution: twice 3x3 convolution and leaky ReLU, with the 2x2 box inside or after the second.

    With fused scaling the box filter comes before the second activation, without it after: so does the official code.
    """

    def __init__(self, inputs: int, outputs: int, fused_scale: bool):
        super().__init__()
        self.fused_scale = fused_scale
        self.conv = EqualizedConv2d(inputs, inputs)
        self.down = (FusedDownConv2d if fused_scale else EqualizedConv2d)(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = leaky_relu(self.down(leaky_relu(self.conv(x))))
        return x if self.fused_scale else downscale(x)


class Generator(nn.Module):
    """The progressive generator (paper, table 2), every resolution from 4x4 to `resolution` in one network.

    Args:
        resolution: final image size in pixels, a power of two from 4 to 1024.
        channels: image channels, 1 to 4.
        label_size: number of classes, 0 for none.
        latent_size: length of the latent vector; None means as many as feature maps at the input.
        fmap_base, fmap_decay, fmap_max: feature maps of a stage, see `feature_maps`.
        fused_scale: upscale and convolve in one operation (same function, fewer products).
        first_layer: one of FIRST_LAYERS: "paper", or for weights of other codebases "no-norm", without the pixel norm
            after it, or "pixel-bias", with a bias for each pixel.
        equalized_lr, pixel_norm: the paper's own, each of which can be left out (its table 1). The latents are
            normalised all the same.

    Raises:
        ValueError: a resolution or a first layer that there is not.
    """

    multiscale = batch_norm = False

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        label_size: int = 0,
        latent_size: int | None = None,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        fused_scale: bool = True,
        first_layer: str = "paper",
        equalized_lr: bool = True,
        pixel_norm: bool = True,
    ):
        super().__init__()
        levels = check_resolution(resolution)
        if first_layer not in FIRST_LAYERS:
            raise ValueError(f"first_layer {first_layer!r} is not one of {', '.join(FIRST_LAYERS)}")
        maps = [feature_maps(stage, fmap_base, fmap_decay, fmap_max) for stage in range(levels)]
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.latent_size = latent_size or maps[0]
        self.latent_norm = PixelNorm()
        self.norm = PixelNorm() if pixel_norm else nn.Identity()
        self.first_norm = nn.Identity() if first_layer == "no-norm" else self.norm
        self.dense = EqualizedLatent(self.latent_size + label_size, maps[1], pixel_bias=first_layer == "pixel-bias")
        self.conv = EqualizedConv2d(maps[1], maps[1])
        self.blocks = nn.ModuleList(
            GeneratorBlock(maps[r - 2], maps[r - 1], fused_scale, self.norm) for r in range(3, levels + 1)
        )
        self.to_rgb = nn.ModuleList(EqualizedConv2d(m, channels, kernel_size=1, gain=1) for m in maps[1:])
        if not equalized_lr:
            without_equalized_lr(self)

    @property
    def resolutions(self) -> list[int]:
        """What it can draw."""
        return [4 << level for level in range(len(self.to_rgb))]

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
    ) -> Tensor:
        """Latents [N, latent_size] (and one-hot labels [N, label_size]) -> images [N, channels, r, r] around [-1, 1].

        Args:
            resolution: the stage to run, a power of two from 4 to the network's own (the default).
            alpha: weight of the newest block's RGB image, in [0, 1]; the rest is the one below it, upscaled.
                A 0-d tensor keeps one compiled graph through a whole fade; the number 1 skips the lower path.

        Raises:
            ValueError: a resolution the network does not have, or labels missing where it was built with them.
        """
        return self.images(self.features(latents, labels), resolution, alpha)

    def features(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The first layer's feature maps [N, nf(1), 4, 4], normed; arguments and errors as for `forward`."""
        latents = with_labels(latents, labels, self.label_size)
        return self.first_norm(leaky_relu(self.dense(self.latent_norm(latents))))

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        """The rest of `forward`, from the first layer's feature maps on."""
        top = check_resolution(resolution or self.resolution, self.resolution) - 2
        below = x = self.norm(leaky_relu(self.conv(features)))
        for block in self.blocks[:top]:
            below, x = x, block(x)
        images = at_least_float32(self.to_rgb[top](x))
        if top and is_fading(alpha):
            images = torch.lerp(upscale(at_least_float32(self.to_rgb[top - 1](below))), images, alpha)
        return images


class Discriminator(nn.Module):
    """The progressive discriminator (paper, table 2), with label logits beside the score where there are classes.

    Args:
        mbstd_group: samples in a minibatch-stddev group; 0 leaves that layer out.
        others: as for `Generator`.
    """

    multiscale = batch_norm = False

    def __init__(
        self,
        resolution: int,
        channels: int = 3,
        label_size: int = 0,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        fused_scale: bool = True,
        mbstd_group: int = 4,
        equalized_lr: bool = True,
    ):
        super().__init__()
        levels = check_resolution(resolution)
        maps = [feature_maps(stage, fmap_base, fmap_decay, fmap_max) for stage in range(levels)]
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.from_rgb = nn.ModuleList(EqualizedConv2d(channels, m, kernel_size=1) for m in maps[1:])
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(maps[r - 1], maps[r - 2], fused_scale) for r in range(3, levels + 1)
        )
        self.mbstd = MinibatchStdDev(mbstd_group) if mbstd_group else None
        self.conv = EqualizedConv2d(maps[1] + bool(mbstd_group), maps[1])
        self.dense = EqualizedLinear(maps[1] * 16, maps[0])
        self.output = EqualizedLinear(maps[0], 1 + label_size, gain=1)
        if not equalized_lr:
            without_equalized_lr(self)

    def forward(
        self, images: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0, batches: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Images [N, channels, r, r] in [-1, 1] -> (scores [N], label logits [N, label_size]).

        Args:
            resolution: the stage to run; the images' own size, which is the default.
            alpha: weight of the newest block's features, in [0, 1], as for `Generator.forward`.
            batches: how many batches of one size the images are, one after another, each judged as if alone.

        Raises:
            ValueError: images of another size, or a batch that the stddev group does not divide.
        """
        resolution = resolution or images.shape[-1]
        top = check_resolution(resolution, self.resolution) - 2
        if images.shape[1:] != (self.channels, resolution, resolution):
            raise ValueError(
                f"images are {list(images.shape)}, not [N, {self.channels}, {resolution}, {resolution}] as asked"
            )
        x = leaky_relu(self.from_rgb[top](images))
        for level in range(top, 0, -1):
            x = self.blocks[level - 1](x)
            if level == top and is_fading(alpha):
                lower = leaky_relu(self.from_rgb[top - 1](downscale(images)))
                x = torch.lerp(at_least_float32(lower), at_least_float32(x), alpha)
        return self.score(x, batches)

    def score(self, x: Tensor, batches: int) -> tuple[Tensor, Tensor]:
        """Features [N, nf(1), 4, 4] -> (scores [N], label logits [N, label_size])."""
        x = leaky_relu(self.conv(self.mbstd(x, batches) if self.mbstd else x).contiguous())  # as the dense layer is
        x = self.output(leaky_relu(self.dense(x.flatten(1))))
        x = at_least_float32(x)
        return x[:, 0], x[:, 1:]
