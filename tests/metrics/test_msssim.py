import json
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch

from pggan.metrics.msssim import MSSSIM, WEIGHTS, PairSimilarities, gaussian, ms_ssim, ssim

ROOT = Path(__file__).parents[2]
OFFICIAL = json.loads((ROOT / "tests" / "golden" / "official_metrics.json").read_text())


def draw_noise(count, side, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def accumulate(*batches):
    pairs = PairSimilarities()
    for batch in batches:
        pairs.update(torch.as_tensor(np.ascontiguousarray(batch)))
    return pairs


def compute_mean(pairs):
    return pairs.total / pairs.pairs


@pytest.mark.parametrize("name", ["train0", "blurred_train1", "up64_train0"])
def test_msssim_agrees_with_the_official_code_on_cifar10(cifar10, name):
    images = cifar10["train"][2048:4096] if name.startswith("blurred") else cifar10["train"][:2048]
    if name.startswith("blurred"):
        smooth = scipy.ndimage.gaussian_filter(images.astype(np.float32), (0, 0, 1, 1))
        images = np.rint(smooth).astype(np.uint8)
    if name.startswith("up64"):
        images = images.repeat(2, axis=2).repeat(2, axis=3)
    assert compute_mean(accumulate(*np.split(images, [100, 1000]))) == pytest.approx(
        OFFICIAL[f"msssim/{name}"], abs=1e-4
    )


@pytest.mark.parametrize("side", [4, 16, 32, 100])
def test_msssim_is_one_for_equal_images_and_near_zero_for_unrelated_ones(side):
    a, b = (torch.from_numpy(draw_noise(4, side, seed)).float() for seed in (0, 1))
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(4))
    if side > 4:
        assert ms_ssim(a, b).max() < 0.35


def test_msssim_of_constant_images_is_the_luminance_term():
    a, b = torch.full((1, 1, 16, 16), 50.0), torch.full((1, 1, 16, 16), 150.0)
    c1 = (0.01 * 255) ** 2
    luminance = (2 * 50 * 150 + c1) / (50**2 + 150**2 + c1)
    assert ssim(a, b)[0].item() == pytest.approx(luminance, rel=1e-4)
    assert ms_ssim(a, b).item() == pytest.approx(luminance ** WEIGHTS[-1].item(), rel=1e-4)


def test_windows_are_gaussians_that_sum_to_one():
    window = gaussian(32)
    assert len(window) == 11 and window.sum().item() == pytest.approx(1)
    assert (window[5] / window[6]).item() == pytest.approx(np.exp(0.5 / 1.5**2))
    assert len(gaussian(4)) == 4 and len(gaussian(1)) == 1


@pytest.mark.parametrize("splits", [[], [1], [3, 4, 9], list(range(1, 11))])
def test_pairs_are_consecutive_images_even_across_batches(splits):
    images = draw_noise(11, 16) // 4 + draw_noise(1, 16, seed=5) // 2
    x = torch.from_numpy(images).float()
    expected = ms_ssim(x[0:10:2], x[1:10:2]).mean().item()
    pairs = accumulate(*np.split(images, splits))
    assert pairs.pairs == 5 and compute_mean(pairs) == pytest.approx(expected, rel=1e-5)


def test_the_similarity_of_both_sides_is_reported():
    identical, varied = accumulate(np.repeat(draw_noise(1, 32), 8, axis=0)), accumulate(draw_noise(8, 32))
    assert MSSSIM().compare(varied, identical) == pytest.approx({"msssim": 1, "msssim_real": compute_mean(varied)})
