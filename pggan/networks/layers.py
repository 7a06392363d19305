"""The PGGAN paper's layers: equalized learning rate, pixel norm, minibatch standard deviation, fused scaling.

"Paper" is Karras et al. 2018 (arXiv 1710.10196); "official code" is its authors' TensorFlow implementation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .operations import convolve, normalize_channels

HE_GAIN = math.sqrt(2)  # keeps the variance constant through ReLU layers (He et al. 2015, arXiv 1502.01852)


def upscale(x: Tensor) -> Tensor:
    """Double the size of images, [N, C, H, W] -> [N, C, 2H, 2W], by repeating pixels (paper, figure 2)."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def downscale(x: Tensor) -> Tensor:
    """Halve the size of images, [N, C, H, W] -> [N, C, H/2, W/2], by averaging 2x2 boxes (paper, figure 2)."""
    return F.avg_pool2d(x, 2)


def promote_to_float32(x: Tensor) -> Tensor:
    """Convert bfloat16 and float16 to float32; leave float32 and float64 as they are.

    For statistics, images and scores under autocast: bfloat16's 8 significant bits are too few for differences from a
    mean and for averages of images.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Equalized(nn.Module):
    """Base of layers with equalized learning rate (paper, section 4.1).

    Weights are drawn from N(0, 1) and multiplied by gain / sqrt(fan_in), He's constant, in every forward pass. Adam's
    steps do not depend on the gradient's scale, so this gives all layers the same effective learning rate. The bias
    starts at zero and is not scaled.

    Args:
        weight_shape: shape of the weight.
        fan_in: inputs that each output sums over.
        biases: length of the bias.
        gain: numerator of the scale; sqrt(2) before a leaky ReLU, 1 for linear outputs.
    """

    def __init__(self, weight_shape: tuple[int, ...], fan_in: int, biases: int, gain: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(weight_shape))
        self.bias = nn.Parameter(torch.zeros(biases))
        self.scale = gain / math.sqrt(fan_in)
        self.shared: SharedKernels | None = None

    def scaled_weight(self) -> Tensor:
        return self.weight * self.scale

    def kernel(self) -> Tensor:
        """Return what the layer multiplies its input by."""
        return self.scaled_weight()

    def current_kernel(self) -> Tensor:
        """Return the kernel, computed now or, within `use_kernels`, once for all passes."""
        return self.kernel() if self.shared is None else self.shared.find(self)


class SharedKernels:
    """Kernels that all passes of a network share until its weights change, computed at first use in autocast's dtype.

    A pass within `use_kernels` sees a kernel as a leaf of its graph and adds to its gradient, which `backward`
    backpropagates to the weight. So scaling, rearranging and rounding a weight, and their gradients, are computed once
    instead of once per pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = [module for module in network.modules() if isinstance(module, Equalized)]
        self.kernels: dict[Equalized, tuple[Tensor, Tensor]] = {}  # as a function of the weight; as a leaf

    def find(self, layer: Equalized) -> Tensor:
        if layer not in self.kernels:
            device = layer.weight.device.type
            dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else layer.weight.dtype
            with torch.enable_grad():  # a later pass may need the gradients that this one does not
                kernel = layer.kernel()
                layout = torch.channels_last if kernel.ndim == 4 else torch.preserve_format
                kernel = kernel.to(dtype, memory_format=layout)
            self.kernels[layer] = kernel, kernel.detach().requires_grad_(kernel.requires_grad)
        return self.kernels[layer][1]

    def leaves(self) -> list[Tensor]:
        """Return the kernels whose gradients are needed."""
        return [leaf for _, leaf in self.kernels.values() if leaf.requires_grad]

    def backward(self, parameters: list[Tensor]) -> None:
        """Backpropagate the kernels' gradients since the last call to `parameters`."""
        pairs = [(kernel, leaf) for kernel, leaf in self.kernels.values() if leaf.grad is not None]
        if pairs:
            kernels, leaves = zip(*pairs, strict=True)
            # the next micro-batch needs the graph again
            torch.autograd.backward(kernels, [leaf.grad for leaf in leaves], inputs=parameters, retain_graph=True)
            for leaf in leaves:
                leaf.grad = None


def share_kernels(network: nn.Module) -> SharedKernels | None:
    """Return kernels to share on a GPU; None on a CPU, where computing them is a small part of a step."""
    return SharedKernels(network) if next(network.parameters()).is_cuda else None


@contextmanager
def use_kernels(shared: SharedKernels | None) -> Iterator[SharedKernels | None]:
    """Let the network's layers use shared kernels in this block; None changes nothing."""
    layers = shared.layers if shared else []
    for layer in layers:
        layer.shared = shared
    try:
        yield shared
    finally:
        for layer in layers:
            layer.shared = None


@torch.no_grad()
def disable_equalized_lr(network: nn.Module) -> None:
    """Apply the scale once, to the weights, instead of in every forward pass.

    This is plain He initialization, from which the paper's section 4.1 departs.
    """
    for module in network.modules():
        if isinstance(module, Equalized):
            module.weight.mul_(module.scale)
            module.scale = 1.0


class EqualizedLinear(Equalized):
    """Dense layer, [N, inputs] -> [N, outputs]."""

    def __init__(self, inputs: int, outputs: int, gain: float = HE_GAIN):
        super().__init__((outputs, inputs), inputs, outputs, gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.current_kernel(), self.bias)


class EqualizedLatent(Equalized):
    """The generator's first layer: dense, [N, inputs] -> [N, outputs, 4, 4].

    It has one bias per feature map or, with `pixel_bias`, one per pixel of each map. The default gain is the official
    code's, sqrt(2) / 4 instead of He's sqrt(2).
    """

    def __init__(self, inputs: int, outputs: int, gain: float = HE_GAIN / 4, pixel_bias: bool = False):
        super().__init__((inputs, outputs, 4, 4), inputs, outputs, gain)
        if pixel_bias:
            self.bias = nn.Parameter(torch.zeros(outputs, 4, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.current_kernel().permute(0, 2, 3, 1).flatten(1)  # [N, 4 * 4 * outputs]
        x = x.view(-1, 4, 4, len(self.bias)).permute(0, 3, 1, 2)  # [N, outputs, 4, 4], channels_last without a copy
        return x + self.bias.view(len(self.bias), *(self.bias.shape[1:] or (1, 1)))


class EqualizedConv2d(Equalized):
    """Convolution with zero padding, [N, inputs, H, W] -> [N, outputs, H, W]."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3, gain: float = HE_GAIN, has_bias: bool = True):
        super().__init__((outputs, inputs, kernel_size, kernel_size), inputs * kernel_size**2, outputs, gain)
        self.padding = kernel_size // 2
        if not has_bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.current_kernel(), self.bias, padding=self.padding)


def convolve_with_box(kernel: Tensor) -> Tensor:
    """Convolve a kernel with a 2x2 box of ones, [..., 3, 3] -> [..., 4, 4].

    Repeating each pixel 2x2 times, and summing 2x2 boxes, are convolutions with that box. Convolving the two kernels
    first gives a single convolution of stride 2 for both steps.
    """
    if kernel.is_cuda:  # there, torch's gradient of padded pooling is wrong in channels_last (seen with 2.11)
        kernel = kernel.contiguous()
    # average pooling over the zero-padded kernel, divided by 1: the sum of each 2x2 window
    return F.avg_pool2d(kernel, 2, stride=1, padding=1, divisor_override=1)


class FusedUpConv2d(EqualizedConv2d):
    """`EqualizedConv2d(upscale(x))` as one transposed convolution: 16 products per input pixel instead of 36."""

    def kernel(self) -> Tensor:
        """Return the kernel of the transposed convolution, [inputs, outputs, 4, 4]."""
        # A transposed convolution adds the kernel to the output around each input pixel, while torch's "convolution"
        # is a cross-correlation. The same weights need the kernel rotated by 180 degrees. (The official code does not
        # rotate it; see interop/official.py.)
        kernel = self.scaled_weight().flip(2, 3).transpose(0, 1).contiguous(memory_format=torch.channels_last)
        return convolve_with_box(kernel)

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.current_kernel(), self.bias, stride=2, padding=1, transposed=True)


class FusedDownConv2d(EqualizedConv2d):
    """`downscale(EqualizedConv2d(x))` as one strided convolution: 16 products per output pixel instead of 36."""

    def kernel(self) -> Tensor:
        """Return the kernel of the strided convolution, [outputs, inputs, 4, 4]."""
        return convolve_with_box(self.scaled_weight() / 4)  # / 4: the 2x2 box is averaged, not summed

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.current_kernel(), self.bias, stride=2, padding=1)


class PixelNorm(nn.Module):
    """Divide each pixel's feature vector by its root mean square over the channels (paper, section 4.2).

    Args:
        epsilon: added to the mean square; the paper's value.
    """

    def __init__(self, epsilon: float = 1e-8):
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return normalize_channels(x, self.epsilon)


class MinibatchStdDev(nn.Module):
    """Append a feature map with the standard deviation within each group of samples (paper, section 3).

    The deviation is computed per feature and pixel over the group (biased), then averaged to one number per group. The
    paper's text computes it over the whole batch; groups are the official code's. Samples i, i + N/group,
    i + 2N/group, ... form a group, also as in the official code.

    Args:
        group_size: samples per group; a smaller batch forms one group.
        epsilon: added to the variance; the official code's value.
    """

    def __init__(self, group_size: int = 4, epsilon: float = 1e-8):
        super().__init__()
        self.group_size, self.epsilon = group_size, epsilon

    def forward(self, x: Tensor, batches: int = 1) -> Tensor:
        """Append the map: x [N, C, H, W] -> [N, C + 1, H, W], channels_last.

        Args:
            batches: number of equal batches that x concatenates. Groups never cross batches, so real and generated
                images can share one forward pass.

        Raises:
            ValueError: `group_size` does not divide the batch.
        """
        n = len(x) // batches
        group = min(self.group_size, n)
        if n % group:
            raise ValueError(f"a batch of {n} does not divide into minibatch-stddev groups of {group}; use a multiple")
        # M = n / group is the number of groups per batch. float32, because bfloat16 would round the mean by more than
        # similar samples deviate from it.
        y = promote_to_float32(x).view(batches, group, n // group, *x.shape[1:])  # [batches, group, M, C, H, W]
        difference = y - y.mean(dim=1, keepdim=True)
        # [batches, 1, M, C, H, W]; Tensor.var takes ten times as long on a CPU
        variance = difference.square().mean(dim=1, keepdim=True)
        deviation = (variance + self.epsilon).sqrt().mean(dim=(3, 4, 5), keepdim=True)  # [batches, 1, M, 1, 1, 1]
        feature = deviation.to(x.dtype).expand_as(y[:, :, :, :1]).reshape(len(x), 1, *x.shape[2:])
        # Concatenating in NHWC keeps the memory format; torch.cat on the NCHW views would return contiguous NCHW.
        channels_last = [maps.permute(0, 2, 3, 1) for maps in (x, feature)]
        return torch.cat(channels_last, dim=3).permute(0, 3, 1, 2)
