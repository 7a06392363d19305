from functools import lru_cache

import numpy as np
import pytest
import torch

from pggan.datasets import SyntheticShapes
from pggan.datasets.synthetic import BACKGROUNDS, COLORS, MODES, SHAPES, classify
from pggan.metrics import ModeCoverage


@lru_cache
def draw(count, resolution, seed=0):
    source = SyntheticShapes(seed=seed)
    return np.stack([source.image(i, resolution) for i in range(count)])


def average(images, size=2):
    n, c, r, _ = images.shape
    return images.reshape(n, c, r // size, size, r // size, size).mean(axis=(3, 5))


def test_an_image_is_a_function_of_seed_and_index():
    alone, many = SyntheticShapes(count=40, seed=3), SyntheticShapes(count=5000, seed=3, labeled=True)
    for i in (39, 0, 7):
        assert (alone.image(i, 16) == many.image(i, 16)).all()
    other = SyntheticShapes(seed=4)
    assert all((alone.image(i, 16) != other.image(i, 16)).any() for i in range(32))
    assert (alone.image(0, 16) != alone.image(32, 16)).any()


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("resolution", [4, 16, 256])
def test_images_are_drawn_at_any_size_with_1_to_4_channels(resolution, channels):
    image = SyntheticShapes().image(5, resolution, channels)
    assert image.shape == (channels, resolution, resolution) and image.dtype == np.uint8


def test_channels_are_luma_color_and_coverage():
    source = SyntheticShapes()
    rgba, luma = source.image(0, 32, 4), source.image(0, 32, 1)
    assert (rgba[:3] == source.image(0, 32, 3)).all() and (source.image(0, 32, 2) == [luma[0], rgba[3]]).all()
    assert np.abs(np.tensordot([0.299, 0.587, 0.114], rgba[:3], 1) - luma[0]).max() <= 1
    assert rgba[3].min() == 0 and rgba[3].max() == 255


def test_labels_are_the_shapes():
    source = SyntheticShapes(count=100, labeled=True)
    assert source.classes == list(SHAPES) and source.labels.dtype == np.int64
    assert [source.classes[label] for label in source.labels] == [MODES[i % 32][0] for i in range(100)]
    assert SyntheticShapes().labels is None and SyntheticShapes().classes == []


def test_content_digests_differ_between_datasets():
    sources = (SyntheticShapes(), SyntheticShapes(9), SyntheticShapes(seed=1))
    assert len({source.content_digest() for source in sources}) == 3
    assert SyntheticShapes().content_digest() == SyntheticShapes().content_digest()


@pytest.mark.parametrize("index", range(0, 32, 5))
def test_an_image_shows_its_modes_colors(index):
    _, color, background = MODES[index]
    image = SyntheticShapes().image(index, 64, 4).astype(int)
    shape, ground = image[:3, image[3] == 255].T, image[:3, image[3] == 0].T
    assert np.abs(shape - COLORS[color]).max() <= 17 and np.abs(ground - BACKGROUNDS[background]).max() <= 17


def test_drawing_is_anti_aliased():
    small, large = draw(64, 32), average(draw(64, 64))
    assert np.abs(small - large).mean() < 0.4 and np.abs(small - large).max() < 64
    coverage = SyntheticShapes().image(0, 32, 4)[3]
    assert ((coverage > 0) & (coverage < 255)).sum() > 20


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_images_are_classified_as_their_own_mode(resolution):
    assert (classify(draw(320, resolution)) == np.arange(320) % 32).mean() >= 0.99


def compute_coverage(images):
    coverage = ModeCoverage(classify, len(MODES), 8)
    data, generated = coverage.accumulator_type(), coverage.accumulator_type()
    data.update(torch.from_numpy(draw(320, 32)))
    generated.update(torch.from_numpy(np.ascontiguousarray(images)))
    return coverage.compare(data, generated)


def test_the_data_covers_all_modes():
    assert compute_coverage(draw(320, 32, seed=5)) == pytest.approx({"modes": 32, "modes_kl": 0}, abs=0.01)


def test_collapsed_samples_cover_one_mode():
    assert compute_coverage(draw(32, 32)[[13] * 100]) == pytest.approx({"modes": 1, "modes_kl": np.log(32)})


def test_missing_and_rare_modes_are_counted():
    modes = np.arange(320) % 32
    without_twelve = compute_coverage(draw(320, 32)[modes < 20])
    assert without_twelve == pytest.approx({"modes": 20, "modes_kl": np.log(32 / 20)}, abs=0.02)
    rare = compute_coverage(np.concatenate([draw(320, 32)[modes < 31]] * 4 + [draw(32, 32)[31:]]))
    assert rare["modes"] == 31


def make_noise():
    return np.random.default_rng(0).integers(0, 256, (320, 3, 32, 32), dtype=np.uint8)


def make_mean_images():
    return np.repeat(draw(320, 32).mean(axis=0, keepdims=True), 320, axis=0).astype(np.uint8)


def make_mixtures():
    chosen = np.random.default_rng(0).integers(0, 320, (320, 8))
    return draw(320, 32)[chosen].mean(axis=1).astype(np.uint8)


@pytest.mark.parametrize("images", [make_noise, make_mean_images, make_mixtures])
def test_noise_and_blur_cover_fewer_modes_than_the_data(images):
    coverage = compute_coverage(images())
    assert coverage["modes"] <= 24 and coverage["modes_kl"] > 0.5
