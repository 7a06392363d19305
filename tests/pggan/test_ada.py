"""ADA's transformations against their definitions (Karras et al. 2020, appendix B)."""

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pggan.config import resolve_config
from pggan.training import ada
from pggan.training.plan import STEP_COST, compute_costs_per_image
from pggan.training.state import network_arguments


def make_images(count=8, side=16, channels=3):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def draw(count, seed=0):
    return ada.draw(np.random.default_rng(seed), count)


def warp(x, matrix=((1.0, 0.0), (0.0, 1.0)), offset=(0.0, 0.0)):
    return ada.warp(x, torch.tensor([matrix]).expand(len(x), 2, 2), torch.tensor([offset]).expand(len(x), 2))


def test_the_filter_is_daubechies_orthogonal_half_band_filter_with_six_vanishing_moments():
    h, n = np.array(ada.SYM6), np.arange(12)
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-9)
    for shift in range(6):
        assert h[2 * shift :] @ h[: 12 - 2 * shift] == pytest.approx(float(shift == 0), abs=1e-9)
    for moment in range(6):  # scaled to [0, 1], so that rounding of the taps does not grow
        assert ((-1.0) ** n * (n / 11) ** moment * h).sum() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("side", [4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_p_of_zero_changes_no_bit_and_p_of_one_every_image(side, channels):
    x = make_images(64, side, channels)
    assert torch.equal(ada.augment(x, torch.tensor(0.0), draw(64)), x)
    y = ada.augment(x, torch.tensor(1.0), draw(64))
    assert y.shape == x.shape and y.isfinite().all()
    assert (x != y).flatten(1).any(dim=1).all()


@pytest.mark.parametrize("quarters", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_pixel_blitting_copies_pixels(flip, quarters):
    x = make_images(2, 8)
    y = ada.blit(x, torch.tensor([0.2 + 0.5 * flip] * 2), torch.tensor([quarters / 4 + 0.1] * 2))
    assert torch.equal(y, torch.rot90(x.flip(3) if flip else x, quarters, dims=(2, 3)))


@pytest.mark.parametrize("side", [4, 16, 33])
def test_resampling_in_place_reconstructs_every_pixel(side):
    x = make_images(2, side)
    assert torch.allclose(warp(x), x, atol=2e-5)


def test_whole_pixel_translations_copy_pixels_and_mirror_at_the_borders():
    x = make_images(2, 16)
    y = warp(x, offset=(2.0, -1.0))  # shows what was 2 columns to the right and 1 row above
    expected = np.pad(x, ((0, 0), (0, 0), (1, 0), (0, 2)), mode="reflect")[:, :, :16, 2:]
    assert torch.allclose(y, torch.from_numpy(expected), atol=2e-5)


def pattern(columns, rows):
    return torch.cos(0.35 * columns + 0.5) * torch.cos(0.25 * rows - 0.2)


@pytest.mark.parametrize(
    "matrix", [((0.0, -1.0), (1.0, 0.0)), ((0.7, 0.0), (0.0, 0.7)), ((0.8, -0.6), (0.6, 0.8)), ((0.5, 0.2), (0.0, 1.0))]
)
def test_warping_a_smooth_pattern_agrees_with_its_formula(matrix):
    place = torch.arange(32.0) - 15.5
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    y = warp(pattern(columns, rows)[None, None], matrix, (0.3, -1.4))[0, 0]
    (a, b), (c, d) = matrix
    columns, rows = a * columns + b * rows + 0.3, c * columns + d * rows - 1.4
    inside = torch.stack([columns, rows, *torch.meshgrid(place, place, indexing="ij")]).abs().amax(0) < 12  # of mirrors
    assert inside.sum() > 300
    assert (y - pattern(columns, rows))[inside].abs().max() < 0.01


def test_a_far_away_position_shows_a_mirror_image():
    x = make_images(1, 8)
    y = warp(x, offset=(14.0, 28.0))  # one period and two periods of 2 * (8 - 1)
    assert (y - x).abs().mean() < 0.1 < (x - x.flip(2)).abs().mean()  # sym6 is not quite symmetric


def test_shrinking_leaves_no_aliases():
    stripes = torch.ones(1, 1, 32, 32)
    stripes[..., ::2] = -1
    assert warp(stripes, ((1.0, 0.0), (0.0, 1.0))).abs().mean() > 0.99
    assert warp(stripes, ((2.0, 0.0), (0.0, 1.0)))[..., 11:-11].abs().max() < 0.05


def homogeneous(*rows):
    return torch.tensor([*rows, (0.0, 0.0, 1.0)], dtype=torch.float64)


def rotate(angle):
    c, s = math.cos(angle), math.sin(angle)
    return homogeneous((c, -s, 0.0), (s, c, 0.0))


def test_geometric_transformations_compose_in_the_papers_order():
    noise = draw(5)
    _, uniforms, normals = noise.T.split([ada.CHANCES, ada.UNIFORMS, ada.NORMALS])
    matrix, offset = ada.compose(32, torch.ones(1, 5), torch.ones(5, 5), uniforms[2:6], normals[:4])
    for i in range(5):
        u, n = uniforms[2:6, i].tolist(), normals[:4, i].tolist()
        scale, stretch = 2 ** (0.2 * n[0]), 2 ** (0.2 * n[1])
        forward = homogeneous((1.0, 0.0, round((u[0] - 0.5) / 4 * 32)), (0.0, 1.0, round((u[1] - 0.5) / 4 * 32)))
        for step in (
            homogeneous((scale, 0.0, 0.0), (0.0, scale, 0.0)),
            rotate((2 * u[2] - 1) * math.pi),
            homogeneous((stretch, 0.0, 0.0), (0.0, 1 / stretch, 0.0)),
            rotate((2 * u[3] - 1) * math.pi),
            homogeneous((1.0, 0.0, n[2] / 8 * 32), (0.0, 1.0, n[3] / 8 * 32)),
        ):
            forward = step @ forward
        inverse = torch.linalg.inv(forward).float()
        assert torch.allclose(matrix[i], inverse[:2, :2], atol=1e-5)
        assert torch.allclose(offset[i], inverse[:2, 2], atol=1e-4)


def test_transformations_that_are_not_applied_compose_to_the_identity():
    matrix, offset = ada.compose(32, torch.zeros(1, 5), torch.zeros(5, 5), torch.rand(4, 5), torch.randn(4, 5))
    assert torch.equal(matrix, torch.eye(2).expand(5, 2, 2)) and (offset == 0).all()


def test_color_is_the_product_of_the_papers_matrices():
    x = make_images(6)
    generator = torch.Generator().manual_seed(1)
    brightness, contrast, hue, saturation = torch.randn(4, 6, generator=generator)
    contrast, saturation = contrast.exp(), saturation.exp()
    luma = torch.tensor([1.0, -1.0] * 3)
    y = ada.adjust_color(x, brightness, contrast, luma, hue, saturation)
    v = torch.full((3,), 3**-0.5)
    along = torch.outer(v, v)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    for i in range(6):
        pixels = (x[i].flatten(1) + brightness[i]) * contrast[i]
        pixels = (torch.eye(3) - 2 * along * (luma[i] < 0)) @ pixels  # Householder reflection
        turn = along + hue[i].cos() * (torch.eye(3) - along) + hue[i].sin() * cross  # Rodrigues' formula
        pixels = (along + (torch.eye(3) - along) * saturation[i]) @ turn @ pixels
        assert torch.allclose(y[i].flatten(1), pixels, atol=1e-4)


def test_hue_keeps_luma_and_distance_from_gray():
    x, one, zero = make_images(4), torch.ones(4), torch.zeros(4)
    y = ada.adjust_color(x, zero, one, one, torch.tensor([0.5, 1.0, 2.0, 3.0]), one)
    chroma, turned = (image - image.mean(1, keepdim=True) for image in (x, y))
    assert torch.allclose(x.mean(1), y.mean(1), atol=1e-6) and not torch.allclose(chroma, turned, atol=0.1)
    assert torch.allclose(chroma.norm(dim=1), turned.norm(dim=1), atol=1e-5)
    third = ada.adjust_color(x, zero, one, one, torch.full((4,), 2 * math.pi / 3), one)
    assert torch.allclose(third, x.roll(1, dims=1), atol=1e-5)  # red becomes green


def test_gray_images_have_brightness_contrast_and_luma_only():
    x, number = make_images(4, channels=1), torch.full((4,), 0.5)
    y = ada.adjust_color(x, number, 3 * number, -torch.ones(4), number, number)
    assert torch.allclose(y, -1.5 * (x + 0.5), atol=1e-6)


def test_each_transformation_is_applied_with_probability_p(monkeypatch):
    found = []
    monkeypatch.setattr(ada, "compose", lambda side, shift, warps, *numbers: found.append(warps) or raise_stop())
    with pytest.raises(StopIteration):
        ada.augment(torch.zeros(20_000, 1, 4, 4), torch.tensor(0.36), draw(20_000))
    scaled, first, stretched, second, moved = found[0]
    for rate, expected in (
        *((each.mean(), 0.36) for each in (scaled, stretched, moved, torch.maximum(first, second))),
        *((each.mean(), 0.2) for each in (first, second)),
    ):
        assert rate.item() == pytest.approx(expected, abs=0.015)


def test_blitting_translation_and_color_are_applied_with_probability_p(monkeypatch):
    found, colors = {}, ada.parametrize_color
    monkeypatch.setattr(ada, "blit", lambda x, flip, turn: found.update(flip=flip, turn=turn) or x)
    compose = ada.compose
    monkeypatch.setattr(
        ada, "compose", lambda side, shift, *rest: found.update(shift=shift[0]) or compose(side, shift, *rest)
    )
    monkeypatch.setattr(
        ada, "parametrize_color", lambda flags, *rest: found.update(enumerate(flags)) or colors(flags, *rest)
    )
    ada.augment(torch.zeros(20_000, 1, 4, 4), torch.tensor(0.36), draw(20_000))
    rates = {name: (flags > 0).float().mean().item() for name, flags in found.items()}
    assert rates == {name: pytest.approx(0.36, abs=0.015) for name in ("flip", "turn", "shift", *range(5))}


def test_color_parameters_have_the_papers_strengths():
    ones, zeros, half = torch.ones(5, 2), torch.zeros(5, 2), torch.tensor([[0.4, 0.6], [0.75, 0.5]])
    normals = torch.tensor([[1.0, -2.0], [1.0, -2.0], [1.0, -2.0]])
    found = torch.stack(ada.parametrize_color(ones, half, normals))
    expected = [[0.2, -0.4], [2**0.5, 0.5], [1, -1], [math.pi / 2, 0], [2, 0.25]]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    identity = torch.stack(ada.parametrize_color(zeros, half, normals))
    assert torch.equal(identity, torch.tensor([[0.0], [1], [1], [0], [1]]).expand(5, 2))


def raise_stop():
    raise StopIteration


def test_the_gradient_of_an_augmented_image_is_that_of_an_affine_map():
    x, dx = make_images(16, 8), make_images(16, 8).flip(0)
    x.requires_grad_(True)
    weights = make_images(16, 8).flip(1, 2)
    y = ada.augment(x, torch.tensor(0.7), draw(16))
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    moved = ada.augment((x + dx).detach(), torch.tensor(0.7), draw(16))
    assert ((moved - y) * weights).sum((1, 2, 3)).tolist() == pytest.approx(
        (gradient * dx).sum((1, 2, 3)).tolist(), abs=2e-3
    )


def test_bf16_training_augments_in_float32():
    x = make_images(4)
    with torch.autocast("cpu", torch.bfloat16):
        y = ada.augment(x.bfloat16(), torch.tensor(1.0), draw(4))
    assert y.dtype == torch.float32
    assert torch.equal(y, ada.augment(x.bfloat16().float(), torch.tensor(1.0), draw(4)))


def test_augmentation_takes_less_than_a_tenth_of_a_steps_operations_at_64x64():
    """Matrix products and convolutions, with the paper's networks; the rest of both is element by element."""
    config = resolve_config({"data": "synthetic", "resolution": 64, "channels": 3})
    step = STEP_COST * compute_costs_per_image(network_arguments(config, 0))[64]
    x = make_images(4, 64).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        ada.augment(x, torch.tensor(0.5), draw(4)).sum().backward()
    each = counter.get_total_flops() / 4
    assert 0 < 4 * each < 0.1 * step  # reals, fakes, the points between, and fakes for G


def test_every_random_number_is_used():
    """Changing any of an image's numbers changes some image."""
    x, noise = make_images(64), draw(64)
    whole = ada.augment(x, torch.tensor(0.5), noise)
    for index in range(noise.shape[1]):
        other = noise.clone()
        other[:, index] = draw(64, seed=1)[:, index]
        assert not torch.equal(ada.augment(x, torch.tensor(0.5), other), whole), index
