"""The explorer's images, without its web page."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.networks import Generator
from pggan.use import Trained
from pggan.use.explorer_view import View, prepare_for_rendering, render_png


def make_trained(channels=3, classes=()):
    torch.manual_seed(1)
    network = Generator(16, channels, len(classes), fmap_base=64, fmap_max=8)
    return Trained(network.requires_grad_(False), 16, 1.0, 1000, list(classes), {})


def render_pixels(model, view):
    return np.asarray(Image.open(io.BytesIO(render_png(model, view.clamp(model))))).astype(int)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_prepared_generator_renders_the_seeds_sample(channels):
    model = make_trained(channels)
    (expected,) = model.sample(1, seed=5).numpy().astype(int)
    found = render_pixels(prepare_for_rendering(model), View(seed=5, level=2)).reshape(16, 16, channels)
    assert np.abs(found - expected.transpose(1, 2, 0)).max() <= 1


def test_a_full_walk_ends_at_the_target_seed():
    model = make_trained(classes=("cat", "dog"))
    end = render_pixels(model, View(seed=3, towards=9, walk=1, level=2, label=1))
    assert np.abs(end - render_pixels(model, View(seed=9, level=2, label=1))).max() <= 1
    assert np.abs(end - render_pixels(model, View(seed=9, level=2, label=0))).max() > 1


@pytest.mark.parametrize("value", [None, -1, 1e300, float("nan"), "9", [], 0.5])
def test_any_value_a_page_sends_can_be_rendered(value):
    model = make_trained(classes=("cat", "dog"))
    view = View(*[value] * 7)
    assert render_pixels(model, view).shape[2] == 3
    assert view.clamp(model).file_name(model).endswith(".png")


def test_a_class_without_training_images_is_replaced():
    model = replace(make_trained(classes=("cat", "dog", "owl")), class_counts=(0, 4, 0))
    assert [View(label=label).clamp(model).label for label in range(3)] == [1, 1, 1]


def test_stages_missing_from_imported_weights_are_skipped():
    model = replace(make_trained(), untrained=frozenset({4, 8}))
    view = View(level=0, alpha=0.5).clamp(prepare_for_rendering(model))
    assert (view.resolution, view.alpha) == (16, 1.0)
    view = View(level=0, alpha=0.5).clamp(replace(model, untrained=frozenset({4})))
    assert (view.resolution, view.alpha) == (8, 1.0)


def test_image_file_names_describe_the_view():
    model = make_trained(classes=("cat", "dog"))
    assert View(level=2).clamp(model).file_name(model) == "seed-0-label-0-16x16.png"
    view = View(3, 8, 0.25, 0.7, 1, 0.5, 1)
    assert view.clamp(model).file_name(model) == "seed-3-to-8-at-0.25-label-1-psi-0.7-8x8-alpha-0.5.png"
