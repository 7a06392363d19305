"""The progressive generator and discriminator (Karras et al. 2018, arXiv 1710.10196).

Both networks hold every block from the start, and (resolution, alpha) selects which ones run. Nothing is rebuilt or
renamed as training grows them, so state dicts, optimizers and checkpoints keep one shape for the whole run.
"""

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
    disable_equalized_lr,
    downscale,
    promote_to_float32,
    upscale,
)
from .operations import leaky_relu

MIN_RESOLUTION, MAX_RESOLUTION = 4, 1024  # the paper's first and largest stage
FIRST_LAYERS = ("paper", "no-norm", "pixel-bias")


def check_resolution(resolution: int, largest: int = MAX_RESOLUTION) -> int:
    """Return log2(resolution), or raise ValueError unless it is a power of two from 4 to `largest`."""
    if resolution < MIN_RESOLUTION or resolution > largest or resolution & (resolution - 1):
        raise ValueError(f"resolution {resolution} is not a power of two from {MIN_RESOLUTION} to {largest}")
    return resolution.bit_length() - 1


def count_feature_maps(stage: int, fmap_base: int, fmap_decay: float, fmap_max: int) -> int:
    """Return nf(stage), the number of feature maps; the block at resolution 2^r uses nf(r - 1).

    The formula is the official code's. With base 8192, decay 1 and max 512 it gives the paper's table 2.
    """
    return min(int(fmap_base / 2 ** (stage * fmap_decay)), fmap_max)


def is_fading(alpha: float | Tensor) -> bool:
    """Return whether the lower resolution's path must run too.

    The number 1 means a stabilized stage. A tensor always counts as a fade: reading its value would synchronize with
    the GPU in every step.
    """
    return isinstance(alpha, Tensor) or alpha != 1


def append_labels(latents: Tensor, labels: Tensor | None, label_size: int) -> Tensor:
    """Concatenate latents [N, L] and one-hot labels [N, label_size] to a generator's input [N, L + label_size].

    Raises:
        ValueError: the generator is conditional and `labels` is None.
    """
    if not label_size:
        return latents
    if labels is None:
        raise ValueError(f"this generator is conditional: pass one-hot labels [N, {label_size}]")
    return torch.cat([latents, labels.to(latents.dtype)], dim=1)


class GeneratorBlock(nn.Module):
    """Double the resolution: upscale, then two times 3x3 convolution, leaky ReLU and pixel norm (paper, table 2)."""

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
    """Halve the resolution: two times 3x3 convolution and leaky ReLU, with 2x2 average pooling (paper, table 2).

    With fused scaling the pooling is part of the second convolution, so it comes before the second activation; without
    it, it comes after. Both orders are the official code's.
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
    """Progressive generator (paper, table 2) that holds every resolution from 4x4 to `resolution`.

    Args:
        resolution: final image size in pixels, a power of two from 4 to 1024.
        channels: image channels, 1 to 4.
        label_size: number of classes, 0 for unconditional.
        latent_size: length of the latent vector; None for nf(0), as in the paper.
        fmap_base: numerator of the feature map formula, see `count_feature_maps`.
        fmap_decay: log2 of the factor by which maps shrink per stage.
        fmap_max: largest number of feature maps.
        fused_scale: upscale and convolve in one operation (same function, fewer products).
        first_layer: one of FIRST_LAYERS. "paper"; for weights of other codebases, "no-norm" (no pixel norm after the
            first layer) or "pixel-bias" (one bias per pixel).
        equalized_lr: scale weights at run time (paper, section 4.1).
        pixel_norm: normalize feature vectors (paper, section 4.2). The latents are normalized in any case.

    Raises:
        ValueError: `resolution` or `first_layer` is not one of the values above.
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
        levels = check_resolution(resolution)  # log2: 10 for 1024x1024
        if first_layer not in FIRST_LAYERS:
            raise ValueError(f"first_layer {first_layer!r} is not one of {', '.join(FIRST_LAYERS)}")
        maps = [count_feature_maps(stage, fmap_base, fmap_decay, fmap_max) for stage in range(levels)]
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        self.latent_size = latent_size or maps[0]
        self.latent_norm = PixelNorm()  # on the latents, labels included, as in the official code
        self.norm = PixelNorm() if pixel_norm else nn.Identity()
        self.first_norm = nn.Identity() if first_layer == "no-norm" else self.norm
        # 4x4: dense and conv; blocks[i] doubles the size to 8 * 2^i; to_rgb[i] draws images of 4 * 2^i
        self.dense = EqualizedLatent(self.latent_size + label_size, maps[1], pixel_bias=first_layer == "pixel-bias")
        self.conv = EqualizedConv2d(maps[1], maps[1])
        self.blocks = nn.ModuleList(
            GeneratorBlock(maps[r - 2], maps[r - 1], fused_scale, self.norm) for r in range(3, levels + 1)
        )
        # gain 1, not sqrt(2): no activation follows
        self.to_rgb = nn.ModuleList(EqualizedConv2d(m, channels, kernel_size=1, gain=1) for m in maps[1:])
        if not equalized_lr:
            disable_equalized_lr(self)

    @property
    def resolutions(self) -> list[int]:
        """The resolutions it can generate, in pixels, smallest first."""
        return [4 << level for level in range(len(self.to_rgb))]

    def forward(
        self,
        latents: Tensor,
        labels: Tensor | None = None,
        resolution: int | None = None,
        alpha: float | Tensor = 1.0,
    ) -> Tensor:
        """Generate images [N, channels, r, r]; their range is about [-1, 1], but not clipped (the output is linear).

        Args:
            latents: [N, latent_size], from N(0, 1).
            labels: one-hot [N, label_size]; required by conditional generators, ignored by others.
            resolution: stage r to run, a power of two from 4 to the network's resolution (the default).
            alpha: weight of the newest block's RGB image, in [0, 1]; the lower stage's image, upscaled, gets the rest.
                A 0-d tensor lets alpha change without a host synchronization; the number 1 skips the lower path.

        Raises:
            ValueError: the network has no such resolution, or it is conditional and `labels` is None.
        """
        return self.images(self.features(latents, labels), resolution, alpha)

    def features(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the first layer's feature maps [N, nf(1), 4, 4], normalized. Arguments and errors: see `forward`."""
        latents = append_labels(latents, labels, self.label_size)
        return self.first_norm(leaky_relu(self.dense(self.latent_norm(latents))))

    def images(self, features: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0) -> Tensor:
        """Return the images for the first layer's feature maps: the rest of `forward`."""
        # index of the last block to run, 0 for 4x4
        top = check_resolution(resolution or self.resolution, self.resolution) - 2
        below = x = self.norm(leaky_relu(self.conv(features)))  # [N, nf(1), 4, 4]
        for block in self.blocks[:top]:
            below, x = x, block(x)  # `below` has half the size of x
        images = promote_to_float32(self.to_rgb[top](x))
        if top and is_fading(alpha):  # figure 2(b): 4x4 has no lower stage to fade from
            images = torch.lerp(upscale(promote_to_float32(self.to_rgb[top - 1](below))), images, alpha)
        return images


class Discriminator(nn.Module):
    """Progressive discriminator (paper, table 2); with classes, it also returns label logits (AC-GAN).

    Args:
        resolution: final image size in pixels, a power of two from 4 to 1024.
        channels: image channels, 1 to 4.
        label_size: number of classes, 0 for unconditional.
        fmap_base: see `Generator`, like the next three.
        mbstd_group: samples per minibatch-stddev group; 0 removes that layer.
        equalized_lr: see `Generator`.
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
        maps = [count_feature_maps(stage, fmap_base, fmap_decay, fmap_max) for stage in range(levels)]
        self.resolution, self.channels, self.label_size = resolution, channels, label_size
        # the generator mirrored: from_rgb[i] reads images of 4 * 2^i, blocks[i] halves the size from 8 * 2^i
        self.from_rgb = nn.ModuleList(EqualizedConv2d(channels, m, kernel_size=1) for m in maps[1:])
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(maps[r - 1], maps[r - 2], fused_scale) for r in range(3, levels + 1)
        )
        self.mbstd = MinibatchStdDev(mbstd_group) if mbstd_group else None
        self.conv = EqualizedConv2d(maps[1] + bool(mbstd_group), maps[1])  # one more map from minibatch stddev
        self.dense = EqualizedLinear(maps[1] * 16, maps[0])  # from 4x4 pixels, which the paper writes as a 4x4 conv
        # score and label logits share one layer, as in the official code; gain 1: no activation follows
        self.output = EqualizedLinear(maps[0], 1 + label_size, gain=1)
        if not equalized_lr:
            disable_equalized_lr(self)

    def forward(
        self, images: Tensor, resolution: int | None = None, alpha: float | Tensor = 1.0, batches: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Return scores [N] and label logits [N, label_size], in at least float32.

        Args:
            images: [N, channels, r, r] in [-1, 1].
            resolution: stage r to run; must equal the images' size, which is the default.
            alpha: weight of the newest block's features, in [0, 1], as for `Generator.forward`.
            batches: number of equal batches that `images` concatenates. Minibatch stddev never mixes them, so the
                result is the same as from separate calls.

        Raises:
            ValueError: the images have another size, or the stddev group does not divide the batch.
        """
        resolution = resolution or images.shape[-1]
        top = check_resolution(resolution, self.resolution) - 2
        if images.shape[1:] != (self.channels, resolution, resolution):
            raise ValueError(
                f"images have shape {list(images.shape)}, expected [N, {self.channels}, {resolution}, {resolution}]"
            )
        x = leaky_relu(self.from_rgb[top](images))
        for level in range(top, 0, -1):
            x = self.blocks[level - 1](x)  # to the size 4 * 2^(level - 1)
            if level == top and is_fading(alpha):  # figure 2(b), mirrored: features are averaged, not scores
                lower = leaky_relu(self.from_rgb[top - 1](downscale(images)))
                x = torch.lerp(promote_to_float32(lower), promote_to_float32(x), alpha)
        return self.score(x, batches)

    def score(self, x: Tensor, batches: int) -> tuple[Tensor, Tensor]:
        """Return scores [N] and label logits [N, label_size] for the 4x4 features [N, nf(1), 4, 4]."""
        # contiguous: the dense layer's weights are in [C, H, W] order, while x is channels_last
        x = leaky_relu(self.conv(self.mbstd(x, batches) if self.mbstd else x).contiguous())
        x = self.output(leaky_relu(self.dense(x.flatten(1))))
        x = promote_to_float32(x)
        return x[:, 0], x[:, 1:]
