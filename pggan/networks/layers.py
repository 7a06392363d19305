"""The paper's layers: equalized learning rate, pixel norm, minibatch standard deviation, fused scaling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .operations import convolve, norm_by_channels

HE_GAIN = math.sqrt(2)


def upscale(x: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,C,2H,2W] by repeating pixels (paper, section 2)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downscale(x: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,C,H/2,W/2] by averaging 2x2 boxes (paper, section 2)."""
    return F.avg_pool2d(x, 2)


def at_least_float32(x: Tensor) -> Tensor:
    """Norms and statistics are computed in float32 under bfloat16 autocast; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Equalized(nn.Module):
    """Weights drawn from N(0, 1) and scaled at run time by gain / sqrt(fan_in) (paper, section 4.1).

    The bias starts at zero, is not scaled and is added after the product.
    """

    def __init__(self, weight_shape: tuple[int, ...], fan_in: int, biases: int, gain: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(weight_shape))
        self.bias = nn.Parameter(torch.zeros(biases))
        self.scale = gain / math.sqrt(fan_in)

    def scaled_weight(self) -> Tensor:
        return self.weight * self.scale


@torch.no_grad()
def without_equalized_lr(network: nn.Module) -> None:
    """Scale the weights once, now, instead of in every step: He's initialisation (paper, section 4.1)."""
    for module in network.modules():
        if isinstance(module, Equalized):
            module.weight.mul_(module.scale)
            module.scale = 1.0


class EqualizedLinear(Equalized):
    """[N, inputs] -> [N, outputs]."""

    def __init__(self, inputs: int, outputs: int, gain: float = HE_GAIN):
        super().__init__((outputs, inputs), inputs, outputs, gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled_weight(), self.bias)


class EqualizedLatent(Equalized):
    """The generator's first dense layer, [N, inputs] -> [N, outputs, 4, 4].

    Its bias is one for each feature map, or with `pixel_bias` one for each of its pixels.
    """

    def __init__(self, inputs: int, outputs: int, gain: float = HE_GAIN / 4, pixel_bias: bool = False):
        super().__init__((inputs, outputs, 4, 4), inputs, outputs, gain)
        if pixel_bias:
            self.bias = nn.Parameter(torch.zeros(outputs, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.scaled_weight().permute(0, 2, 3, 1).flatten(1)
        x = x.view(-1, 4, 4, len(self.bias)).permute(0, 3, 1, 2)  # channels_last
        return x + self.bias.view(len(self.bias), *(self.bias.shape[1:] or (1, 1)))


class EqualizedConv2d(Equalized):
    """Same-size convolution, [N, inputs, H, W] -> [N, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, gain: float = HE_GAIN):
        super().__init__((outputs, inputs, kernel_size, kernel_size), inputs * kernel_size**2, outputs, gain)
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.scaled_weight(), self.bias, padding=self.padding)


def spread_over_four_shifts(kernel: Tensor) -> Tensor:
    """[..., 3, 3] -> [..., 4, 4]: the kernel convolved with the 2x2 box of ones that scaling by two amounts to."""
    return F.avg_pool2d(kernel, 2, stride=1, padding=1, divisor_override=1)


class FusedUpConv2d(EqualizedConv2d):
    """`EqualizedConv2d(upscale(x))` as one transposed convolution, with 16 products per input pixel instead of 36."""

    def kernel(self) -> Tensor:
        kernel = self.scaled_weight().flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        return spread_over_four_shifts(kernel)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.kernel(), self.bias, stride=2, padding=1, transposed=True)


class FusedDownConv2d(EqualizedConv2d):
    """`downscale(EqualizedConv2d(x))` as one strided convolution, with 16 products per output pixel instead of 36."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, spread_over_four_shifts(self.scaled_weight() / 4), self.bias, stride=2, padding=1)


class PixelNorm(nn.Module):
    """Each pixel's feature vector divided by its root mean square over the channels (paper, section 4.2)."""

    def __init__(self, epsilon: float = 1e-8):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return norm_by_channels(x, self.epsilon)


class MinibatchStdDev(nn.Module):
    """One more feature map: the mean standard deviation over groups of samples (paper, section 3).

    Samples i, i + N/group, i + 2N/group, ... form a group, as in the official code; the variance is biased.

    Args:
        group_size: samples in a group; a smaller batch is one group.
    """

    def __init__(self, group_size: int = 4, epsilon: float = 1e-8):
        super().__init__()
        self.group_size, self.epsilon = group_size, epsilon

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        """batches: how many batches of one size x is, one after another; no group has samples of two."""
        n = len(x) // batches
        group = min(self.group_size, n)
        if n % group:
            raise ValueError(f"a batch of {n} cannot be split into minibatch-stddev groups of {group}; use a multiple")
        y = at_least_float32(x).view(batches, group, n // group, *x.shape[1:])
        difference = y - y.mean(dim=1, keepdim=True)
        variance = difference.square().mean(dim=1, keepdim=True)  # `var` takes ten times as long on a CPU
        deviation = (variance + self.epsilon).sqrt().mean(dim=(3, 4, 5), keepdim=True)
        feature = deviation.to(x.dtype).expand_as(y[:, :, :, :1]).reshape(len(x), 1, *x.shape[2:])
        channels_last = [maps.permute(0, 2, 3, 1) for maps in (x, feature)]
        return torch.cat(channels_last, dim=3).permute(0, 3, 1, 2)
