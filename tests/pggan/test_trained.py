"""Loading a generator from a checkpoint, and generating images with it."""

import threading
import time
from dataclasses import replace

import pytest
import torch

import pggan
from pggan import checkpoints
from pggan.networks import generate
from pggan.networks.sampling import to_one_hot, to_uint8
from pggan.use import Trained


def test_a_seed_gives_the_same_image_alone_and_in_any_batch(trained, labeled):
    for model in (trained, labeled):
        images = model.sample(20)
        assert torch.equal(model.sample(1, seed=13), images[13:14])
        assert torch.equal(model.sample(5, seed=7), images[7:12])
        assert len({image.numpy().tobytes() for image in images}) == 20


def test_several_threads_draw_the_same_images(trained, labeled):
    threads = torch.get_num_threads()
    expected = trained.sample(5, truncation=0.5), labeled.sample(5, truncation=0.5)
    busy, batch = set(), Trained.draw_batch

    def spy(self, *arguments):
        busy.add((threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))
        time.sleep(0.02)  # so that no thread draws all images
        return batch(self, *arguments)

    torch.set_num_threads(3)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Trained, "draw_batch", spy)
            parallel = trained.sample(5, truncation=0.5), labeled.sample(5, truncation=0.5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(parallel, expected, strict=True))
    assert len(busy) > 2 and {state[1:] for state in busy} == {(1, False)}


def test_latents_are_standard_normal_and_uncorrelated_between_neighboring_seeds(trained):
    z = trained.latents(range(4000))
    assert abs(z.mean()) < 0.02 and abs(z.std() - 1) < 0.02
    similarities = torch.nn.functional.cosine_similarity(z[:-1], z[1:])
    assert abs(similarities.mean()) < 0.02


def test_labels_are_drawn_evenly_from_the_seeds(labeled, trained):
    labels = labeled.labels(range(3000))
    assert torch.equal(labeled.labels([5, 2999]), labels[[5, 2999]])
    assert torch.bincount(labels).min() > 900
    assert trained.labels([1]) is None


def test_classes_without_training_images_are_never_drawn(labeled):
    gaps = replace(labeled, classes=["a", "b", "c"], class_counts=(4, 0, 2))
    assert gaps.drawable == [0, 2] and set(gaps.labels(range(40)).tolist()) == {0, 2}
    full = replace(gaps, class_counts=(1, 1, 1))
    assert full.labels(range(40)).tolist() == replace(gaps, class_counts=()).labels(range(40)).tolist()


def test_drawn_images_match_the_generators_output(labeled):
    z, y = labeled.latents(range(6)), torch.tensor([0, 1, 2, 0, 1, 2])
    drawn = labeled.draw(z, y)
    assert drawn.shape == (6, 1, 16, 16) and drawn.dtype == torch.uint8
    assert (drawn.int() - generate(labeled.generator, z, y, 16).int()).abs().max() <= 1
    assert not torch.equal(labeled.draw(z[:1], y[:1]), labeled.draw(z[:1], y[1:2]))


def test_truncation_moves_the_first_features_to_their_mean(trained):
    seeds = range(8)
    whole, half, none = (trained.sample(8, truncation=psi).float() for psi in (1, 0.5, 0))
    assert torch.equal(whole, trained.sample(8).float())
    assert (none == none[:1]).all()
    assert 0 < half.var(dim=0).mean() < whole.var(dim=0).mean()
    features = trained.generator.features(trained.latents(seeds))
    mean = trained.generator.features(trained.latents(range(2000))).mean(dim=0)
    expected = to_uint8(trained.generator.images(0.5 * features + 0.5 * mean, 16))
    assert (half - expected.float()).abs().max() <= 1


def test_truncation_keeps_the_class(labeled):
    z = labeled.latents([0, 1])
    cats, dogs = (labeled.draw(z, torch.tensor([k, k]), truncation=0.0) for k in (0, 1))
    assert torch.equal(cats[0], cats[1]) and not torch.equal(cats, dogs)
    hot = to_one_hot(torch.zeros(2000, dtype=torch.long), 3)
    mean = labeled.generator.features(labeled.latents(range(2000)), hot).mean(dim=0, keepdim=True)
    assert torch.allclose(labeled.compute_mean_features(0), mean, atol=1e-6)


def test_another_stage_can_be_selected(trained):
    lower = trained.at(8)
    assert (lower.resolution, lower.alpha) == (8, 1.0) and lower.sample(2).shape == (2, 3, 8, 8)
    assert trained.at(alpha=0.25).alpha == 0.25 and trained.at(16).alpha == 1
    old = trained.at(alpha=0.25)
    assert old.at(16).alpha == 0.25 and old.at(8).alpha == 1


@pytest.mark.parametrize("stage", [(32, None), (12, None), (2, None), (8, 1.5), (8, float("nan"))])
def test_invalid_stages_are_rejected(trained, stage):
    with pytest.raises(ValueError):
        trained.at(*stage)


def save(trained, path, **changes):
    arguments = {"resolution": 16, "channels": 3, "fmap_base": 64, "fmap_max": 16}
    content = {
        "images": 1000,
        "stage": {"resolution": 16, "alpha": 1.0},
        "config": {},
        "networks": {"generator": arguments},
        "state": {"G_ema": trained.generator.state_dict()},
    }
    checkpoints.save(path, content | changes)


def test_a_loaded_checkpoint_gives_the_same_samples(trained, tmp_path):
    save(trained, tmp_path / "a.pt")
    loaded = pggan.load(tmp_path / "a.pt")
    assert torch.equal(loaded.sample(4, seed=2), trained.sample(4, seed=2))


def test_torch_hub_loads_a_checkpoint(trained, tmp_path, request):
    save(trained, tmp_path / "a.pt")
    loaded = torch.hub.load(str(request.config.rootpath), "trained", str(tmp_path / "a.pt"), source="local")
    assert torch.equal(loaded.sample(1), trained.sample(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"stage": {"resolution": 64, "alpha": 1.0}},
        {"stage": {"resolution": 16, "alpha": 7.0}},
        {"stage": {"resolution": "x", "alpha": 1.0}},
        {"stage": 3},
        {"images": None},
        {"classes": ["cat"]},
        {"networks": {"generator": {"resolution": 16, "fmap_base": 2**40, "fmap_max": 2**30}}},  # terabytes if built
        {"networks": {"generator": {"resolution": 16, "channels": 3, "fmap_base": 64, "fmap_max": 8}}},
        {"state": {"G_ema": {}}},
    ],
)
def test_inconsistent_checkpoints_are_rejected(trained, tmp_path, changes):
    save(trained, tmp_path / "a.pt", **changes)
    with pytest.raises(checkpoints.CheckpointError, match=r"a\.pt (does not fit|is damaged)"):
        pggan.load(tmp_path / "a.pt")
