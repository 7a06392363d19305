"""Progressive networks: parameter counts, layers, fades, labels, and rejected arguments."""

import pytest
import torch

from pggan import Discriminator, Generator
from pggan.networks import fold_weight_scales, generate
from pggan.networks.layers import (
    EqualizedConv2d,
    FusedDownConv2d,
    FusedUpConv2d,
    MinibatchStdDev,
    PixelNorm,
    downscale,
    upscale,
)

SMALL = {"resolution": 16, "fmap_base": 64, "fmap_max": 16}


@pytest.mark.parametrize(
    "options, generator, discriminator",
    [
        # the official code's own counts, with the RGB layers of every resolution
        ({"resolution": 1024}, 23_079_115, 23_087_249),
        ({"resolution": 256}, 23_044_309, 23_052_353),
        ({"resolution": 32, "fmap_base": 4096, "fmap_max": 128}, 1_296_908, 1_298_689),
        ({"resolution": 128, "fmap_base": 2048}, 13_629_810, 13_636_897),
    ],
)
def test_parameter_counts_match_the_published_ones(options, generator, discriminator):
    with torch.device("meta"):
        assert sum(p.numel() for p in Generator(**options).parameters()) == generator
        assert sum(p.numel() for p in Discriminator(**options).parameters()) == discriminator


@pytest.mark.parametrize("fused, plain", [(FusedUpConv2d, upscale), (FusedDownConv2d, downscale)])
def test_fused_scaling_matches_separate_scaling(fused, plain):
    x = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    layer, reference = fused(5, 7).double(), EqualizedConv2d(5, 7).double()
    reference.load_state_dict(layer.state_dict())
    expected = reference(plain(x)) if fused is FusedUpConv2d else plain(reference(x))
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_equalized_weights_are_scaled_at_run_time():
    layer = EqualizedConv2d(256, 64)
    assert layer.weight.std().item() == pytest.approx(1, abs=0.01)
    assert layer.scaled_weight().std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    with torch.no_grad():
        layer.bias += 3
        assert torch.allclose(layer(torch.zeros(1, 256, 4, 4)), torch.tensor(3.0))


def test_pixel_norm_gives_unit_mean_square():
    x = torch.randn(3, 32, 4, 4) * 7
    assert torch.allclose(PixelNorm()(x).square().mean(1), torch.ones(3, 4, 4), atol=1e-4)


def test_minibatch_stddev_groups_are_strided_and_biased():
    x = torch.randn(8, 3, 4, 4)
    feature = MinibatchStdDev(4)(x)[:, 3]
    for group in ([0, 2, 4, 6], [1, 3, 5, 7]):
        # rows i, i + 2, ...: the official code's view(4, N/4, ...)
        expected = (x[group].var(0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(feature[group], expected)
    assert torch.allclose(MinibatchStdDev(4)(x[:3])[:, 3], (x[:3].var(0, correction=0) + 1e-8).sqrt().mean())
    with pytest.raises(ValueError, match="a batch of 6"):
        MinibatchStdDev(4)(x[:6])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("fused", [True, False])
def test_every_stage_has_the_right_shapes(channels, fused):
    generator = Generator(**SMALL, channels=channels, fused_scale=fused)
    discriminator = Discriminator(**SMALL, channels=channels, fused_scale=fused)
    for resolution in (4, 8, 16):
        for alpha in (1.0, torch.tensor(0.3)):
            images = generator(torch.randn(4, 16), resolution=resolution, alpha=alpha)
            scores, logits = discriminator(images, alpha=alpha)
            assert images.shape == (4, channels, resolution, resolution)
            assert scores.shape == (4,) and logits.shape == (4, 0)


def test_alpha_blends_from_the_lower_stage_to_the_new_one():
    generator, discriminator = Generator(**SMALL), Discriminator(**SMALL)
    z = torch.randn(4, 16)
    new, old = generator(z), generator(z, resolution=8)
    assert torch.equal(generator(z, alpha=0.0), upscale(old))
    assert torch.allclose(generator(z, alpha=torch.tensor(1.0)), new)
    assert torch.allclose(generator(z, alpha=0.25), torch.lerp(upscale(old), new, 0.25))
    x = torch.randn(4, 3, 16, 16)
    assert torch.allclose(discriminator(x, alpha=0.0)[0], discriminator(downscale(x))[0], atol=1e-6)
    assert torch.allclose(discriminator(x, alpha=torch.tensor(1.0))[0], discriminator(x)[0], atol=1e-6)


def test_blocks_above_the_stage_and_unused_heads_get_no_gradient():
    generator = Generator(**SMALL)
    generator(torch.randn(4, 16), resolution=8).sum().backward()
    used = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert not any(name.startswith(("blocks.1", "to_rgb.0", "to_rgb.2")) for name in used)
    assert any(name.startswith("blocks.0") for name in used) and any(name.startswith("to_rgb.1") for name in used)


def test_labels_condition_the_generator_and_give_logits():
    generator = Generator(**SMALL, label_size=3)
    z, labels = torch.randn(1, 16).expand(2, -1), torch.eye(3)[:2]
    a, b = generator(z, labels)
    assert not torch.equal(a, b)
    assert Discriminator(**SMALL, label_size=3)(torch.randn(4, 3, 16, 16))[1].shape == (4, 3)
    with pytest.raises(ValueError, match="labels"):
        generator(z)


@pytest.mark.parametrize("resolution", [0, 2, 3, 12, 2048, -4])
def test_invalid_resolutions_are_rejected(resolution):
    with pytest.raises(ValueError, match="power of two"):
        Generator(resolution)


def test_stages_above_the_network_and_images_of_another_size_are_rejected():
    with pytest.raises(ValueError, match="from 4 to 16"):
        Generator(**SMALL)(torch.randn(1, 16), resolution=32)
    with pytest.raises(ValueError, match=r"shape \[4, 1, 16, 16\], expected \[N, 3, 16, 16\]"):
        Discriminator(**SMALL)(torch.randn(4, 1, 16, 16))
    with pytest.raises(ValueError, match=r"shape \[4, 3, 8, 16\], expected"):
        Discriminator(**SMALL)(torch.randn(4, 3, 8, 16))


def test_generate_rounds_and_clips():
    generator = Generator(4, channels=1, fmap_max=2)
    with torch.no_grad():
        for p in generator.parameters():
            p.zero_()
        for value, pixel in ((-9.0, 0), (-1.0, 0), (0.0, 128), (1.0, 255), (9.0, 255)):
            generator.to_rgb[0].bias.fill_(value)
            assert (generate(generator, torch.randn(2, 2), None, 4) == pixel).all()


@pytest.mark.parametrize("fused", [True, False])
def test_a_folded_generator_generates_the_same_images(fused):
    generator = Generator(**SMALL, label_size=2, fused_scale=fused)
    latents, labels = torch.randn(3, generator.latent_size), torch.eye(2)[[0, 1, 1]]
    for resolution, alpha in ((4, 1.0), (16, 1.0), (16, 0.25)):
        expected = generator(latents, labels, resolution=resolution, alpha=alpha)
        assert torch.allclose(
            fold_weight_scales(generator)(latents, labels, resolution=resolution, alpha=alpha), expected, atol=1e-5
        )
    with torch.no_grad():
        generator.blocks[0].up.weight.zero_()  # must not reach the layers of an earlier copy
    assert fold_weight_scales(generator).blocks[0].up.weight.abs().sum() == 0 != generator.conv.weight.abs().sum()
