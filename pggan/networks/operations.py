"""Operations whose gradients torch works out slowly, and the gradients' gradients that the gradient penalty needs.

torch works out a convolution's second derivative by its weight as a convolution with a kernel of the images' size; that
takes many times as long as the weight gradient that it is. It passes on leaky ReLU's second derivative, which is zero,
as tensors of zeros. And it takes the gradient of pixel norm through tensors of another memory format.
"""

from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

LEAKINESS = 0.2
passing_weights_by = False


@contextmanager
def weights_passed_by():
    """Differentiable backward passes in this context work out no gradients of convolutions' weights and biases.

    Torch's own operations leave out what `autograd.grad` was not asked for; a Function cannot know.
    """
    global passing_weights_by
    before, passing_weights_by = passing_weights_by, True
    try:
        yield
    finally:
        passing_weights_by = before


def input_gradients(outputs: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of sum(outputs) by inputs that are no weights, themselves differentiable by weights and inputs."""
    with weights_passed_by():
        return torch.autograd.grad(outputs.sum(), inputs, create_graph=True)


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, transposed: bool = False
) -> Tensor:
    """F.conv2d or F.conv_transpose2d, for sizes that one of them makes out of the other's result."""
    if x.device.type != "meta" and torch.is_autocast_enabled(x.device.type):  # meta knows no autocast
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    if transformed():
        return torch.convolution(x, weight, bias, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1)
    return Convolution.apply(x, weight, bias, stride, padding, transposed)


def transformed() -> bool:
    """Within torch.func's transforms and forward mode, which take only Functions of a kind that is called slowly."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Convolution(torch.autograd.Function):
    """The gradient by the input is the other kind of convolution with the same weight."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, transposed: bool
    ) -> Tensor:
        ctx.geometry = stride, padding, transposed
        ctx.save_for_backward(x, weight)
        return torch.convolution(x, weight, bias, [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, transposed = ctx.geometry
        needs_input, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        by_input = by_weight = by_bias = None
        if not torch.is_grad_enabled():  # nobody will differentiate the gradients
            geometry = [stride] * 2, [padding] * 2, [1, 1], transposed, [0, 0], 1
            wanted = [needs_input, needs_weight, needs_bias and not transposed]
            by_input, by_weight, by_bias = torch.ops.aten.convolution_backward(
                gradient, x, weight, [gradient.shape[1]], *geometry, wanted
            )
            if needs_bias and transposed:
                by_bias = summed_by_channel(gradient)
            return by_input, by_weight, by_bias, None, None, None
        if needs_input:
            by_input = Convolution.apply(gradient, weight, None, stride, padding, not transposed)
        if needs_weight and not passing_weights_by:
            small, large = (x, gradient) if transposed else (gradient, x)
            by_weight = WeightGradient.apply(large, small, weight.detach(), stride, padding)
        if needs_bias and not passing_weights_by:
            by_bias = summed_by_channel(gradient)
        return by_input, by_weight, by_bias, None, None, None


class WeightGradient(torch.autograd.Function):
    """Of the convolution from `large` [N, inputs, H, W] to what has the size of `small`; `like`: a weight's shape."""

    @staticmethod
    def forward(ctx: Any, large: Tensor, small: Tensor, like: Tensor, stride: int, padding: int) -> Tensor:
        ctx.geometry = stride, padding
        ctx.save_for_backward(large, small)
        geometry = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1
        return torch.ops.aten.convolution_backward(small, large, like, None, *geometry, [False, True, False])[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        large, small = ctx.saved_tensors
        by_large = by_small = None
        if ctx.needs_input_grad[0]:
            by_large = Convolution.apply(small, gradient, None, *ctx.geometry, True)
        if ctx.needs_input_grad[1]:
            by_small = Convolution.apply(large, gradient, None, *ctx.geometry, False)
        return by_large, by_small, None, None, None


def summed_by_channel(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [C]; as a product with ones, which torch carries out far quicker than the sum on a CPU, and than
    the bias gradient of a transposed convolution."""
    flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return (flat.new_ones(1, len(flat)) @ flat)[0]


class LeakyReLU(torch.autograd.Function):
    """In place; its second derivative is zero, and is not worked out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        F.leaky_relu_(x, LEAKINESS)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.ops.aten.leaky_relu_backward(gradient, x.detach(), LEAKINESS, True)


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2, in place of x."""
    return F.leaky_relu(x, LEAKINESS) if transformed() else LeakyReLU.apply(x)


def norm_by_channels(x: Tensor, epsilon: float) -> Tensor:
    """x r, r = 1 / sqrt(mean of x^2 over dimension 1 + epsilon); r in float32 at least."""
    return x * inverse_length(x, epsilon) if transformed() else NormByChannels.apply(x, epsilon)


class NormByChannels(torch.autograd.Function):
    """Pixel norm, with a gradient in the memory format of its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, epsilon: float) -> Tensor:
        r = inverse_length(x, epsilon)
        y = x * r
        ctx.epsilon = epsilon
        ctx.save_for_backward(x, y, r)  # others hold x and y, too
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        x, y, r = ctx.saved_tensors
        differentiable = torch.is_grad_enabled()
        if differentiable:
            r = inverse_length(x, ctx.epsilon)
        along_y = (gradient * y).mean(dim=1, keepdim=True)
        across_y = torch.addcmul(gradient, y, along_y, value=-1)
        return across_y * r if differentiable else across_y.mul_(r), None


def inverse_length(x: Tensor, epsilon: float) -> Tensor:
    """1 / sqrt(mean of x^2 over dimension 1 + epsilon)."""
    exact = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=exact)
    return torch.rsqrt(length.square() / x.shape[1] + epsilon).to(x.dtype)
