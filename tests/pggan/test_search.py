"""Latent search: projection and super-resolution."""

import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.config import ConfigError
from pggan.use.project import distance_at_every_scale
from pggan.use.search import project_to_sphere, read_image, search
from pggan.use.upscale import compute_small_errors, distance_of_small_versions, downsample_images

OPTIONS = argparse.Namespace(searches=2, steps=120, seed=100, label=None)


def test_search_recovers_a_generated_image(trained):
    target = trained.sample(1, seed=7)[0]
    found = search(trained, distance_at_every_scale(target), OPTIONS)
    start = (trained.sample(128, seed=100).float() - target.float()).square().mean(dim=(1, 2, 3)).min().sqrt()
    error = (found.images[0].float() - target.float()).square().mean().sqrt()
    assert error < 1 < start / 4
    assert torch.equal(trained.draw(found.latents), found.images)


def test_a_label_is_fixed_or_searched_for(labeled):
    target = labeled.draw(labeled.latents([7]), torch.tensor([1]))[0]
    found = search(labeled, distance_at_every_scale(target), argparse.Namespace(**vars(OPTIONS) | {"label": "owl"}))
    assert found.labels.tolist() == [2, 2]
    free = search(labeled, distance_at_every_scale(target), argparse.Namespace(**vars(OPTIONS) | {"steps": 1}))
    assert set(free.labels.tolist()) <= {0, 1, 2}


def test_search_finds_large_images_of_a_small_one(trained):
    small = downsample_images(trained.sample(1, seed=7).float(), 4)[0].round().byte()
    found = search(trained, distance_of_small_versions(small), OPTIONS)
    errors = compute_small_errors(found.images, small)
    assert errors.max() < 8 and not torch.equal(found.images[0], found.images[1])
    difference = np.asarray(found.images[0], float).reshape(3, 4, 4, 4, 4).mean(axis=(2, 4)) - small.numpy()
    assert np.isclose(np.sqrt((difference**2).mean()), errors[0], atol=1e-4)


def test_searches_are_reproducible_and_end_on_the_sphere(trained):
    target = trained.sample(1, seed=7)[0]
    options = argparse.Namespace(**vars(OPTIONS) | {"steps": 5})
    one, two = (search(trained, distance_at_every_scale(target), options) for _ in range(2))
    assert torch.equal(one.latents, two.latents)
    assert torch.allclose(project_to_sphere(one.latents), one.latents, atol=1e-5)


def test_the_loss_is_zero_at_the_target_and_counts_every_scale():
    target = torch.randint(256, (3, 16, 16), dtype=torch.uint8)
    loss = distance_at_every_scale(target)
    exact = (target / 127.5 - 1)[None]
    assert loss(exact).item() < 1e-12
    checkerboard = exact.clone()
    checkerboard[..., ::2, ::2] += 0.1
    checkerboard[..., 1::2, ::2] -= 0.1
    shifted = exact + 0.1 / 2**0.5  # the same squared error at full size
    assert torch.isclose(loss(shifted), torch.tensor(0.005), atol=1e-5)
    assert torch.isclose(loss(checkerboard), torch.tensor(0.005 / 3), atol=1e-5)


def test_images_are_read_with_the_requested_channels(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 3).getpixel((0, 0)) == (255, 0, 0)
    assert read_image(tmp_path / "a.png", 1).mode == "L"
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(np.full((4, 4), 32768, np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_image(tmp_path / "deep.png", 3).getpixel((0, 0)) == (128, 128, 128), "16 bits, as in training"
    assert read_image(tmp_path / "clear.png", 3).getpixel((0, 0)) == (255, 255, 255), "on white, as in training"
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    for name in ("text.png", "cut.png", "missing.png", "."):
        with pytest.raises(ConfigError):
            read_image(tmp_path / name, 3)
