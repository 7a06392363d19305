"""Compare convolution, leaky ReLU and pixel norm with torch's, up to the second derivative."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from pggan.networks import Discriminator, Generator
from pggan.networks.operations import (
    compute_input_gradients,
    convolve,
    leaky_relu,
    normalize_channels,
    sum_by_channel,
    without_weight_gradients,
)

LAYERS = [  # kernel, stride, padding, transposed, groups
    (3, 1, 1, False, 1),
    (1, 1, 0, False, 1),
    (4, 2, 1, False, 1),
    (4, 2, 1, True, 1),
    (3, 1, 1, False, 2),
    (4, 2, 1, False, 2),
    (4, 2, 1, True, 2),
]


def torch_convolve(x, weight, bias, stride, padding, transposed, groups):
    if transposed:
        return F.conv_transpose2d(x, weight, bias, stride, padding, groups=groups)
    return F.conv2d(x, weight, bias, stride, padding, groups=groups)


def draw_inputs(kernel, transposed, groups=1):
    torch.manual_seed(0)
    shape = (4, 6 // groups) if transposed else (6, 4 // groups)
    weight = torch.randn(*shape, kernel, kernel)
    return [t.double().requires_grad_(True) for t in (torch.randn(2, 4, 6, 6), weight, torch.randn(6))]


def differentiate(convolution, parameters):
    """Return the output, its input gradient, and the gradients of a loss that contains a penalty on both."""
    kernel, *geometry = parameters
    x, weight, bias = draw_inputs(kernel, *geometry[2:])
    y = convolution(x, weight, bias, *geometry)
    (gradient,) = compute_input_gradients(y.tanh(), [x])
    total = gradient.square().sum() + y.square().mean()
    return [y, gradient, *torch.autograd.grad(total, [x, weight, bias])]


@pytest.mark.parametrize("parameters", LAYERS)
def test_second_derivatives_match_torchs(parameters):
    for ours, theirs in zip(
        differentiate(convolve, parameters), differentiate(torch_convolve, parameters), strict=True
    ):
        assert torch.allclose(ours, theirs, atol=1e-10)


@pytest.mark.parametrize("parameters", LAYERS)
def test_convolution_passes_first_and_second_order_gradient_checks(parameters):
    kernel, *geometry = parameters
    x, weight, bias = draw_inputs(kernel, *geometry[2:])

    def small(x, weight, bias):
        return convolve(x[:1, :, :4, :4], weight[:, :, :, :], bias, *geometry).sum(dim=(0, 1))

    assert torch.autograd.gradcheck(small, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(small, (x, weight, bias), fast_mode=True)


def test_leaky_relu_is_in_place_and_matches_torch_to_the_second_derivative():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    results = []
    for function in (leaky_relu, lambda x: F.leaky_relu(x, 0.2)):
        y = function(x.square() - 0.5)
        (gradient,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        results.append([y, gradient, *torch.autograd.grad(gradient.pow(3).sum(), x)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    z = torch.tensor([-1.0, 2.0])
    assert leaky_relu(z) is not None and torch.equal(z, torch.tensor([-0.2, 2.0]))


def test_weight_gradients_can_be_skipped():
    x, weight, bias = draw_inputs(3, False)
    total, options = convolve(x, weight, bias, padding=1).sum(), {"create_graph": True, "allow_unused": True}
    with without_weight_gradients():
        by_x, by_weight, by_bias = torch.autograd.grad(total, [x, weight, bias], **options)
    assert by_x is not None and by_weight is None and by_bias is None
    assert all(gradient is not None for gradient in torch.autograd.grad(total, [x, weight, bias], **options))


def test_sum_by_channel_works_in_both_layouts():
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.allclose(sum_by_channel(x.contiguous(memory_format=layout)), x.sum(dim=(0, 2, 3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalize_channels_matches_its_formula_and_derivatives(layout):
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    plain = x / (x.square().mean(dim=1, keepdim=True) + 1e-2).sqrt()
    assert torch.allclose(normalize_channels(x, 1e-2), plain, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: normalize_channels(x, 1e-2), (x,))
    assert torch.autograd.gradgradcheck(lambda x: normalize_channels(x, 1e-2), (x,))


def test_networks_support_torch_func_transforms():
    torch.manual_seed(0)
    G, D = Generator(16, fmap_max=8).double(), Discriminator(16, fmap_max=8).double()
    z = torch.randn(2, G.latent_size).double()
    images = G(z).detach()
    jacobian = torch.autograd.functional.jacobian(lambda z: G(z).mean(), z)
    assert_close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
    assert_close(torch.func.jacrev(lambda z: G(z).mean())(z), jacobian)
    assert_close(torch.func.jvp(lambda z: G(z).mean(), (z,), (z,))[1], (jacobian * z).sum())
    outputs, linear = torch.func.linearize(G, z)
    assert_close(linear(z), torch.func.jvp(G, (z,), (z,))[1])
    with torch.autograd.forward_ad.dual_level():
        dual = G(torch.autograd.forward_ad.make_dual(z, z))
        assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, linear(z))
    assert_close(outputs, images)
    assert_close(torch.func.vmap(lambda z: G(z[None])[0])(z), images)
    by_images = torch.autograd.functional.jacobian(lambda x: D(x)[0].sum(), images)
    assert_close(torch.func.grad(lambda x: D(x)[0].sum())(images), by_images)
    hessian = torch.autograd.functional.hessian(lambda z: G(z).mean(), z)
    assert_close(torch.func.hessian(lambda z: G(z).mean())(z), hessian)
