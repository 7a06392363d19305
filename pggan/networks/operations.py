"""Convolution, leaky ReLU and pixel norm with fast first and second derivatives.

The gradient penalty differentiates D's input gradient with respect to D's weights, so every operation is differentiated
twice. torch is slow at this in three places, and these functions replace it there:

- It computes the second derivative of a convolution with respect to its weight as a convolution with a kernel as large
  as the images. The result is an ordinary weight gradient, which takes a fraction of the time.
- It passes on leaky ReLU's second derivative, which is zero, as tensors of zeros.
- Its gradient of pixel norm goes through tensors of another memory format, which costs copies.
"""

from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

LEAKY_SLOPE = 0.2  # slope for negative inputs (paper, appendix A.1)

# True while `without_weight_gradients` is active. It must be a global. ctx cannot hold it: ctx is filled in forward,
# and the same node runs backward again for the loss, which needs the weights' gradients. A thread-local would not do
# either: the engine runs backward for CUDA tensors in threads of its own.
skip_weight_gradients = False


@contextmanager
def without_weight_gradients():
    """Skip the gradients of convolutions' weights and biases in differentiable backward passes.

    torch's own operations skip the gradients that `autograd.grad` was not asked for. A custom Function is not told
    which ones were asked for: `ctx.needs_input_grad` is True for every weight that requires a gradient.
    """
    global skip_weight_gradients
    before, skip_weight_gradients = skip_weight_gradients, True
    try:
        yield
    finally:
        skip_weight_gradients = before


def compute_input_gradients(outputs: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of sum(outputs) with respect to `inputs`, differentiable with respect to weights and inputs.

    None of the inputs may be a weight or bias of a convolution: those gradients are skipped.
    """
    with without_weight_gradients():
        return torch.autograd.grad(outputs.sum(), inputs, create_graph=True)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    transposed: bool = False,
    groups: int = 1,
) -> Tensor:
    """Return F.conv2d(x, weight, bias), or F.conv_transpose2d(...) if `transposed`, with a fast double backward.

    The output size must determine the input size: with stride 2, the input's sides are even.

    Args:
        x: [N, inputs, H, W].
        weight: [outputs, inputs / groups, k, k]; [inputs, outputs / groups, k, k] if `transposed`.
        bias: [outputs], or None.
        groups: number of equal groups of channels that are convolved separately.
    """
    # Autocast does not cast the inputs of a custom Function. Asking about it raises for the meta device.
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if is_transformed():
        return torch.convolution(x, weight, bias, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], groups)
    return Convolution.apply(x, weight, bias, stride, padding, transposed, groups)


def is_transformed() -> bool:
    """Return whether a torch.func transform or forward-mode AD is active.

    Both accept only Functions with a separate `setup_context`, which are slower to call, so torch's own operations run
    instead. torch has no public function to ask for either.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Convolution(torch.autograd.Function):
    """2-D convolution, or its transpose; the input gradient of either is the other, with the same weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: int,
        padding: int,
        transposed: bool,
        groups: int,
    ) -> Tensor:
        ctx.geometry = stride, padding, transposed, groups
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], groups)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, transposed, groups = ctx.geometry
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        by_input = by_weight = by_bias = None
        if not torch.is_grad_enabled():  # no second derivative needed: one fused kernel gives all three gradients
            geometry = [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], groups
            sums_bias = needs_bias and (transposed or gradient.is_cuda)  # for these, aten's own bias gradient is slow
            wanted = [needs_input, needs_weight, needs_bias and not sums_bias]
            by_input, by_weight, by_bias = torch.ops.aten.convolution_backward(
                gradient, x, weight, [gradient.shape[1]], *geometry, wanted
            )
            if sums_bias:
                by_bias = sum_by_channel(gradient)
            return by_input, by_weight, by_bias, None, None, None, None
        # From here on, every gradient is itself a differentiable operation.
        if needs_input:
            by_input = Convolution.apply(gradient, weight, None, stride, padding, not transposed, groups)
        if needs_weight and not skip_weight_gradients:
            # a transposed convolution maps small to large, so its gradient and its input swap roles
            small, large = (x, gradient) if transposed else (gradient, x)
            by_weight = WeightGradient.apply(large, small, weight.detach(), stride, padding, groups)
        if needs_bias and not skip_weight_gradients:
            by_bias = sum_by_channel(gradient)
        return by_input, by_weight, by_bias, None, None, None, None


class WeightGradient(torch.autograd.Function):
    """Weight gradient of the convolution that maps `large` [N, inputs, H, W] to the shape of `small`.

    It is linear in both, so its own derivatives are a transposed and a plain convolution with the incoming gradient as
    the kernel. `like` supplies the weight's shape and layout; its values are not used.
    """

    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor, like: Tensor, stride: int, padding: int, groups: int) -> Tensor:
        ctx.geometry = stride, padding, groups
        ctx.save_for_backward(large, small)
        geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups
        return torch.ops.aten.convolution_backward(small, large, like, None, *geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        large, small = ctx.saved_tensors
        stride, padding, groups = ctx.geometry
        by_large = by_small = None
        if ctx.needs_input_grad[0]:
            by_large = Convolution.apply(small, gradient, None, stride, padding, True, groups)
        if ctx.needs_input_grad[1]:
            by_small = Convolution.apply(large, gradient, None, stride, padding, False, groups)
        return by_large, by_small, None, None, None, None


def sum_by_channel(x: Tensor) -> Tensor:
    """Return the sum over all but the channels, [N, C, H, W] -> [C].

    It is computed as a product with a vector of ones: that is far faster than `sum`, and than aten's bias gradient, on
    a CPU and on a GPU (22 instead of 55 us for 128 maps of 128 images at 32x32 in bf16 on an H200).
    """
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return (flat.new_ones(1, len(flat)) @ flat)[0]


class LeakyReLU(torch.autograd.Function):
    """Leaky ReLU in place, without computing its second derivative with respect to the input, which is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        F.leaky_relu_(x, LEAKY_SLOPE)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors  # the output, which has the input's signs; detached, so it gets no gradient
        return torch.ops.aten.leaky_relu_backward(gradient, x.detach(), LEAKY_SLOPE, True)


def leaky_relu(x: Tensor) -> Tensor:
    """Apply leaky ReLU with slope 0.2; x is overwritten (except under torch.func)."""
    return F.leaky_relu(x, LEAKY_SLOPE) if is_transformed() else LeakyReLU.apply(x)


def normalize_channels(x: Tensor, epsilon: float) -> Tensor:
    """Return x * r with r = 1 / sqrt(mean(x^2, dim=1) + epsilon) (paper, section 4.2)."""
    return x * inverse_rms(x, epsilon) if is_transformed() else NormalizeChannels.apply(x, epsilon)


class NormalizeChannels(torch.autograd.Function):
    """Pixel norm with a gradient in the input's memory format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        r = inverse_rms(x, epsilon)
        y = x * r
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, y, r)  # x and y cost nothing: neighboring operations save them as well
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y, r = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()
        if differentiable:  # r was computed in forward, outside the graph: its gradient needs it again
            r = inverse_rms(x, ctx.epsilon)
        # dL/dx = r * (g - y * mean(g * y)): the part of g along y changes only the length, which is normalized away
        along_y = (gradient * y).mean(dim=1, keepdim=True)  # [N, 1, ...]
        across_y = torch.addcmul(gradient, y, along_y, value=-1)
        return across_y * r if differentiable else across_y.mul_(r), None


def inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2, dim=1) + epsilon), [N, 1, ...].

    It is computed in at least float32 and rounded to x's dtype once, at the end.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=exact)
    return torch.rsqrt(length.square() / x.shape[1] + epsilon).to(x.dtype)
