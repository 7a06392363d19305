"""Compare MSG-GAN's networks, penalty and gradients with the authors' code."""

import pytest
import torch
from golden.compare import compute_relative_error, load_arrays, select_prefix

from pggan.interop.official import from_official_layout
from pggan.networks.layers import HE_GAIN, MinibatchStdDev
from pggan.networks.multiscale import MultiScaleDiscriminator, MultiScaleGenerator
from pggan.training.losses import NONSATURATING, Loss

SHAPE = {"resolution": 16, "fmap_base": 32, "fmap_max": 8}


def to_double(array):
    return torch.tensor(array, dtype=torch.float64)


def map_d_layers(D):
    """Return our layers by the names of msg-stylegan-tf."""
    return {
        "FromRGB_lod0": D.from_rgb[0],
        "16x16/Conv0": D.blocks[1].conv,
        "16x16/Conv1_down": D.blocks[1].down,
        "8x8/combine": D.join[1],
        "8x8/Conv0": D.blocks[0].conv,
        "8x8/Conv1_down": D.blocks[0].down,
        "4x4/combine": D.join[0],
        "4x4/Conv": D.conv,
        "4x4/Dense0": D.dense,
        "4x4/Dense1": D.output,
    }


@pytest.fixture
def discriminator():
    """Return D in float64 with recorded weights, the arrays, and pairs of our parameters and recorded names."""
    golden, D = load_arrays("msg_d"), MultiScaleDiscriminator(**SHAPE).double()
    pairs = [
        (f"{name}/{part}", parameter)
        for name, layer in map_d_layers(D).items()
        for part, parameter in layer.named_parameters()
    ]
    assert {name for name, _ in pairs} == select_prefix(golden, "D/").keys()
    for name, parameter in pairs:
        parameter.data.copy_(from_official_layout(name, to_double(golden[f"D/{name}"]), parameter.shape))
    return D, golden, pairs


def test_scores_match_the_authors_code(discriminator):
    D, golden, _ = discriminator
    scores, _ = D([to_double(golden[f"reals{r}"]) for r in (4, 8, 16)])
    assert compute_relative_error(scores, golden["scores"]) < 1e-5


def test_penalized_losses_and_gradients_match_the_authors_code(discriminator):
    D, golden, pairs = discriminator
    reals, fakes = ([to_double(golden[f"{name}{r}"]) for r in (4, 8, 16)] for name in ("reals", "fakes"))
    loss = Loss(NONSATURATING, r1=10.0).discriminator_loss(D, reals, fakes, torch.zeros(()))["d_loss"]
    assert loss.item() == pytest.approx(golden["d_loss"].mean(), rel=1e-5)
    loss.backward()
    for name, parameter in pairs:
        theirs = from_official_layout(name, to_double(golden[f"dD/{name}"]), parameter.shape)
        assert compute_relative_error(parameter.grad, theirs) < 1e-5, name


def test_every_block_begins_with_minibatch_stddev():
    calls = []
    D = MultiScaleDiscriminator(**SHAPE)
    D.mbstd.register_forward_hook(lambda module, inputs, output: calls.append(output.shape[2]))
    D(torch.randn(4, 3, 16, 16))
    assert isinstance(D.mbstd, MinibatchStdDev) and calls == [16, 8, 4]
    plain = MultiScaleDiscriminator(mbstd_group=0, **SHAPE)
    images = torch.randn(4, 3, 16, 16)
    assert torch.allclose(plain(images)[0][:2], plain(images[:2])[0], atol=1e-5)


def map_g_layers(G):
    """Return our layers by the names of BMSG-GAN, with the factor by which our weights are larger than theirs."""
    layers = {"layers.0.conv_1": (G.dense, 4.0), "layers.0.conv_2": (G.conv, 1.0)}
    for i, block in enumerate(G.blocks, 1):
        layers |= {f"layers.{i}.conv_1": (block.up, 1.0), f"layers.{i}.conv_2": (block.conv, 1.0)}
    return layers | {f"rgb_converters.{i}": (to_rgb, HE_GAIN) for i, to_rgb in enumerate(G.to_rgb)}


def test_images_of_every_scale_and_gradients_match_the_authors_code():
    golden = load_arrays("msg_g")
    G = MultiScaleGenerator(16, fmap_base=64, fmap_max=8, first_layer="no-norm").double()
    layers = map_g_layers(G)
    assert {f"{name}.{part}" for name in layers for part in ("weight", "bias")} == select_prefix(golden, "G/").keys()
    for name, (layer, factor) in layers.items():
        layer.weight.data.copy_(to_double(golden[f"G/{name}.weight"]) * factor)
        layer.bias.data.copy_(to_double(golden[f"G/{name}.bias"]))
    images = G.pyramid(to_double(golden["latents"]))
    for x in images:
        assert compute_relative_error(x, golden[f"images{x.shape[-1]}"]) < 1e-5
    sum((x * to_double(golden[f"weights{x.shape[-1]}"])).sum() for x in images).backward()
    for name, (layer, factor) in layers.items():
        assert compute_relative_error(layer.weight.grad, golden[f"dG/{name}.weight"] / factor) < 1e-5, name
        assert compute_relative_error(layer.bias.grad, golden[f"dG/{name}.bias"]) < 1e-5, name
