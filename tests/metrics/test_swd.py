import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
import torch

from pggan.metrics import MetricError, swd
from pggan.metrics.swd import (
    PATCHES_PER_IMAGE,
    SWD,
    PatchDescriptors,
    find_temporary_folder,
    repeat_evenly,
    sliced_wasserstein,
)

ROOT = Path(__file__).parents[2]
OFFICIAL = json.loads((ROOT / "tests" / "golden" / "official_metrics.json").read_text())


def collect(*batches):
    result = PatchDescriptors()
    for batch in batches:
        result.update(torch.as_tensor(batch))
    return result


def read(descriptors, side):
    return torch.cat([chunk.clone() for chunk in descriptors.levels[side]])


def compute_swd(a, b):
    return SWD().compare(collect(a), collect(b))


def draw_noise(count, side, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def blur(images, sigma):
    smooth = scipy.ndimage.gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma))
    return np.rint(smooth).astype(np.uint8)


@pytest.fixture(scope="module")
def train0(cifar10):
    return collect(cifar10["train"][:2048])


@pytest.mark.parametrize("other", ["test0", "blurred_train1"])
def test_swd_agrees_with_the_official_code_on_cifar10(cifar10, train0, other):
    """Compare on the golden file's images: 0 to 2047 of each split, and training images 2048 to 4095, blurred."""
    fake = cifar10["test"][:2048] if other == "test0" else blur(cifar10["train"][2048:4096], 1)
    ours = SWD().compare(train0, collect(fake))
    official = OFFICIAL[f"swd/train0_vs_{other}"]
    for name, mean, deviation in zip(("swd_32", "swd_16", "swd"), official["mean"], official["std"], strict=True):
        # One draw against the mean of four official ones. Four values give a rough deviation, so take at least 3%.
        noise = max(deviation, 0.03 * mean) * (1 + 1 / 4) ** 0.5
        assert abs(ours[name] - mean) < 3 * noise, f"{name}: {ours[name]:.2f}, official {mean:.2f}"


def test_swd_of_identical_images_is_zero():
    images = draw_noise(4, 32)
    assert compute_swd(images, images) == {"swd": 0, "swd_32": 0, "swd_16": 0}


@pytest.mark.parametrize(("side", "levels"), [(64, [64, 32, 16]), (32, [32, 16]), (16, [16]), (8, [8]), (4, [4])])
def test_levels_go_from_the_full_size_down_to_16(side, levels):
    descriptors = collect(draw_noise(3, side))
    patch = 3 if side == 4 else 7
    assert {s: read(descriptors, s).shape for s in descriptors.levels} == {
        s: (3 * PATCHES_PER_IMAGE, 3 * patch * patch) for s in levels
    }
    results = compute_swd(draw_noise(3, side), draw_noise(3, side, seed=1))
    assert list(results) == ["swd", *(f"swd_{s}" for s in levels)]
    assert results["swd"] == pytest.approx(np.mean([results[f"swd_{s}"] for s in levels]))


def test_patches_are_windows_of_the_pyramid_by_the_official_filters():
    images = draw_noise(12, 64)
    descriptors, rest = collect(images), images.astype(np.float32)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1])[None, None] / np.float32(256)
    for side in (64, 32, 16):
        level = rest
        if side > 16:
            rest = scipy.ndimage.convolve(rest, kernel, mode="mirror")[:, :, ::2, ::2]
            zeros = np.zeros_like(level)
            zeros[:, :, ::2, ::2] = rest
            level = level - scipy.ndimage.convolve(zeros, kernel * 4, mode="mirror")
        corners = np.random.default_rng((0, side)).integers(0, side - 6, (12, PATCHES_PER_IMAGE, 2))
        assert {corners.min(), corners.max()} == {0, side - 7}, "borders are compared, too"
        expected = [level[i, :, y : y + 7, x : x + 7].ravel() for i in range(12) for y, x in corners[i]]
        np.testing.assert_allclose(read(descriptors, side), expected, rtol=0, atol=1e-3)


def test_patches_are_7x7_windows_from_anywhere_in_their_image():
    position = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = np.stack([np.stack([position, np.full_like(position, i)]) for i in range(6)])
    patches = read(collect(images[:2], images[2:]), 16).numpy().reshape(6, PATCHES_PER_IMAGE, 2, 7, 7)
    assert (patches[:, :, 1] == np.arange(6).reshape(6, 1, 1, 1)).all()
    corners = patches[:, :, 0, :1, :1]
    assert (patches[:, :, 0] - corners == position[:7, :7]).all()
    assert set(corners.ravel()) == set(position[:10, :10].ravel())


def test_patches_do_not_depend_on_the_batch_split():
    images = draw_noise(9, 32)
    whole, parts = collect(images), collect(images[:4], images[4:5], images[5:])
    for side in (32, 16):
        assert torch.equal(read(whole, side), read(parts, side))


def test_each_channel_is_normalized_over_all_patches():
    images = draw_noise(8, 16) // np.array([1, 3, 9], np.uint8).reshape(3, 1, 1)
    descriptors = collect(images[:3], images[3:])
    patches = read(descriptors, 16).double().numpy().reshape(-1, 3, 49)
    expected = (patches - patches.mean(axis=(0, 2), keepdims=True)) / patches.std(axis=(0, 2), keepdims=True)
    ours = torch.cat([chunk.clone() for chunk in descriptors.normalize(16)])
    np.testing.assert_allclose(ours, expected.reshape(-1, 147), rtol=0, atol=1e-5)


def test_constant_images_give_a_finite_score():
    gray = np.full((4, 3, 16, 16), 128, np.uint8)
    assert compute_swd(gray, gray)["swd"] == 0
    assert np.isfinite(compute_swd(gray, draw_noise(4, 16))["swd"])


@pytest.mark.parametrize(("n", "m", "error"), [(300, 300, 1e-5), (100, 300, 1e-5), (300, 100, 1e-5), (150, 200, 0.01)])
def test_in_one_dimension_swd_is_the_wasserstein_distance_even_for_unequal_counts(n, m, error):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, n), rng.exponential(2, m)
    ours = sliced_wasserstein(*([torch.from_numpy(x).float().view(-1, 1)] for x in (a, b)))
    assert ours == pytest.approx(scipy.stats.wasserstein_distance(a, b), rel=error)


def test_the_smaller_of_two_samples_is_repeated_evenly():
    assert repeat_evenly(np.array([0.0, 1.0, 2.0]), 4).tolist() == [0, 1, 1, 2]
    assert repeat_evenly(np.array([3.0, 5.0]), 6).tolist() == [3, 3, 3, 5, 5, 5]


def test_a_shift_in_the_plane_is_measured_by_its_mean_projection():
    points = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    shifted = points[torch.randperm(200)] + torch.tensor([3.0, 4.0])
    assert sliced_wasserstein([points], [shifted]) == pytest.approx(5 * 2 / np.pi, rel=0.06)


def test_swd_grows_with_blur():
    images = blur(draw_noise(32, 32), 0.5)
    distances = [compute_swd(images, blur(images, sigma))["swd"] for sigma in (0.4, 0.6, 1, 2)]
    assert distances[0] > 0 and (np.diff(distances) > 1).all()


def test_datasets_may_differ_in_size():
    images = draw_noise(40, 16)
    few_against_many, many_against_few = compute_swd(images[:9], images), compute_swd(images, images[:9])
    assert few_against_many == many_against_few
    assert 0 < few_against_many["swd"] < compute_swd(images[:9], blur(images, 1))["swd"]


@pytest.mark.parametrize("size", [(24, 24), (32, 16), (2, 2)])
def test_unsupported_shapes_are_rejected(size):
    with pytest.raises(MetricError, match=f"not {size[1]}x{size[0]}"):
        collect(np.zeros((2, 3, *size), np.uint8))


def test_only_the_first_images_are_used(monkeypatch):
    monkeypatch.setattr(swd, "IMAGES", 5)
    images = draw_noise(9, 16)
    capped, first = collect(images[:3], images[3:]), collect(images[:5])
    assert torch.equal(read(capped, 16), read(first, 16))


def test_the_result_does_not_depend_on_how_much_is_in_memory_at_a_time(monkeypatch):
    a, b = draw_noise(40, 32), draw_noise(30, 32, seed=1)
    expected = compute_swd(a, b)
    monkeypatch.setattr(swd, "CHUNK", 1000)
    monkeypatch.setattr(swd, "MAX_VALUES", 1)  # one image
    assert compute_swd(a, b) == expected


def test_patches_are_kept_on_disk_and_removed_with_their_owner(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # tempfile reads TMPDIR only once
    descriptors = collect(draw_noise(40, 32))
    links = [os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if os.path.islink(entry.path)]
    files = [entry.path for entry in os.scandir("/proc/self/fd") if str(tmp_path) in os.path.realpath(entry.path)]
    assert len([link for link in links if str(tmp_path) in link]) == 2
    assert sum(os.stat(path).st_size for path in files) == 2 * 40 * PATCHES_PER_IMAGE * 147 * 4
    del descriptors
    assert not any(str(tmp_path) in os.path.realpath(entry.path) for entry in os.scandir("/proc/self/fd"))


def test_large_temporary_files_avoid_tmp_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("TMPDIR", raising=False)
    assert find_temporary_folder() == "/var/tmp"
