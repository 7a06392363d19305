"""Interpolation between latents, and the videos made from it."""

import numpy as np
import pytest
import torch
from PIL import Image

from pggan.datasets import make_grid
from pggan.use.film import add_caption, write_film
from pggan.use.grow import crop_grid
from pggan.use.interpolate import interpolate_latents, slerp


def test_slerp_follows_the_great_circle():
    a, b = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    steps = slerp(a, b, torch.linspace(0, 1, 4))
    expected = [[2 * np.cos(t), 2 * np.sin(t), 0] for t in np.radians([0, 30, 60, 90])]
    assert torch.allclose(steps, torch.tensor(expected, dtype=torch.float32), atol=1e-6)


def test_slerp_reaches_both_ends_even_if_lengths_differ_or_directions_match():
    a, b = torch.randn(64), 3 * torch.randn(64)
    for start, end in ((a, b), (a, a), (a, -a)):
        steps = slerp(start, end, torch.tensor([0.0, 1.0]))
        assert torch.allclose(steps[0], start, atol=1e-5) and torch.allclose(steps[1], end, atol=1e-5)
    assert torch.allclose(slerp(a, b, torch.tensor([0.5])).norm(), (a.norm() + b.norm()) / 2)


def test_a_walk_visits_every_latent_and_a_loop_returns_to_the_start():
    z = torch.randn(3, 8)
    walk = interpolate_latents(z, 10, loop=False)
    assert walk.shape == (21, 8) and torch.allclose(walk[[0, 10, 20]], z, atol=1e-6)
    loop = interpolate_latents(z, 10, loop=True)
    assert loop.shape == (30, 8) and torch.allclose(loop[[0, 10, 20]], z, atol=1e-6)
    seam = torch.nn.functional.cosine_similarity(loop[-1], loop[0], dim=0)
    assert torch.isclose(seam, torch.nn.functional.cosine_similarity(walk[0], walk[1], dim=0), atol=0.1) and seam < 1


def make_frames(count, size=(32, 48)):
    return [Image.new("RGB", size, (i * 20, 255 - i * 20, 128)) for i in range(count)]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".mp4"])
def test_a_film_contains_its_frames(tmp_path, suffix):
    path, images = tmp_path / f"film{suffix}", make_frames(10)
    write_film(path, iter(images), 10, fps=20)
    if suffix == ".mp4":
        av = pytest.importorskip("av", reason="PyAV is not installed")
        with av.open(str(path)) as film:
            stream = film.streams.video[0]
            assert stream.average_rate == 20 and stream.codec_context.pix_fmt == "yuv420p"
            frames = [frame.to_image() for frame in film.decode(video=0)]
    else:
        with Image.open(path) as film:
            frames = [(film.seek(i), film.convert("RGB"))[1] for i in range(film.n_frames)]
            assert film.info["loop"] == 0 and film.info["duration"] == 50
    assert len(frames) == 10
    for frame, image in zip(frames, images, strict=True):
        assert frame.size == (32, 48)
        assert np.abs(np.asarray(frame, int) - np.asarray(image, int)).mean() < 8


def test_growing_to_fewer_larger_samples_keeps_the_first_ones():
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    many, few = make_grid(images), make_grid(images[:16])
    assert np.array_equal(crop_grid(many, 64, 16).resize(few.size, Image.Resampling.NEAREST), few)


def test_a_caption_is_below_the_image():
    captioned = add_caption(Image.new("L", (200, 100), 200), "8x8  alpha 0.50")
    assert captioned.size == (200, 128)
    pixels = np.asarray(captioned)
    assert (pixels[:100] == 200).all() and pixels[100:].max() > 200 and np.median(pixels[100:]) == 0
