"""Train a small version of every preset, architecture and loss, and check that its images get better.

The images are of a single mode of the embedded dataset: early in training, GANs drop modes, and then the distance to a
dataset of many says little.
"""

import pytest
import torch
from test_steps import copy_weights

from pggan.config import ARCH_DEFAULTS, LOSS_DEFAULTS, PRESETS, resolve_config
from pggan.datasets import MODES, SyntheticShapes
from pggan.metrics.swd import sliced_wasserstein
from pggan.networks import generate
from pggan.networks.layers import downscale
from pggan.training.batch import Batch
from pggan.training.growth import GrowthController
from pggan.training.ranks import SINGLE_PROCESS
from pggan.training.state import TrainState, draw_latents
from pggan.training.steps import Stepper

# A preset's recipe on 8x8 images: only sizes and lengths are smaller, and the moving average is shorter with them.
SMALL = {
    "data": "synthetic",
    "resolution": 8,
    "channels": 3,
    "fmap_base": 64,
    "fmap_max": 16,
    "batch_size": 16,
    "mbstd_group": 4,
    "fade_kimg": 0.5,
    "stabilize_kimg": 0.6,
    "total_kimg": 2.0,
    "ema_decay": 0.95,
    "tick_kimg": 1,
}
MORE = {  # documented architectures and losses without a preset
    "no growth": {"growing": False},
    "minimax": {"preset": "dcgan", "loss": "minimax"},
    "lsgan": {"preset": "dcgan", "loss": "lsgan"},
    "hinge": {"preset": "dcgan", "loss": "hinge"},
    "hinge with r1": {"growing": False, "loss": "hinge", "penalty": "r1"},
    "relativistic": {"growing": False, "loss": "relativistic"},
    "scale consistency": {"preset": "msg", "scale_consistency": 1.0},
}
RECIPES = {**{f"preset {name}": {"preset": name} for name in PRESETS}, **MORE}
SLOWER = {
    "preset wgan": {"total_kimg": 14},  # its learning rate is 5e-5, and G trains in every fifth step
    "preset cifar10": {"total_kimg": 2.8},  # its gradient penalty aims at slopes of 750
}
COUNT = 500  # images to train on, and per distance


@pytest.fixture(scope="module")
def reals():
    """Return red discs of any size and place on a dark background, uint8 [COUNT, 3, 8, 8]."""
    source = SyntheticShapes()
    return torch.stack([torch.from_numpy(source.image(len(MODES) * i, 8)) for i in range(COUNT)])


def draw(state):
    """Return COUNT images of the moving average, [COUNT, 192] in units of 127.5."""
    latents = draw_latents(0, 0, "evaluation", COUNT, state.G.latent_size)
    return generate(state.G_ema, latents, None, 8).flatten(1) / 127.5


def measure_distance(fakes, reals):
    """Return the sliced Wasserstein distance of generated from real images."""
    return sliced_wasserstein([reals.flatten(1) / 127.5], [fakes])


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_moves_the_generator_and_improves_its_images(recipe, reals):
    config = resolve_config(SMALL | SLOWER.get(recipe, {}) | RECIPES[recipe])
    plan, state = GrowthController(config), TrainState(config, 0, torch.device("cpu"))
    stepper = Stepper.from_config(config, bf16=False)
    start, before = measure_distance(draw(state), reals), copy_weights(state.G)
    while state.images < plan.total_images:
        phase = plan.phase(state.images)
        batch = reals[torch.arange(state.images, state.images + phase.batch_size) % len(reals)]
        if phase.resolution == 4:
            batch = downscale(batch.float()).round().to(torch.uint8)
        stepper.step(state, Batch(batch, None, SINGLE_PROCESS.share(phase.batch_size, config.mbstd_group)), phase)
    moved = sum((a - b).square().sum() for a, b in zip(before, copy_weights(state.G), strict=True))
    size = sum(b.square().sum() for b in before)
    fakes = draw(state)
    end, spread = measure_distance(fakes, reals), fakes.std(dim=0).norm() / (reals.flatten(1) / 127.5).std(dim=0).norm()
    print(f"{recipe}: moved by {(moved / size).sqrt():.3f}, distance {start:.3f} -> {end:.3f}, spread {spread:.2f}")
    assert moved > 0.02**2 * size  # 4 to 29% in working recipes
    assert end < 0.8 * start  # a fifth to a half in most
    assert spread > 0.2  # of the pixels' standard deviations; 0.33 to 1.6, 0 if all images are the same


def test_every_architecture_and_loss_has_a_recipe():
    configs = [resolve_config(SMALL | recipe) for recipe in RECIPES.values()]
    assert {config.arch for config in configs} == ARCH_DEFAULTS.keys()
    assert {config.loss for config in configs} == LOSS_DEFAULTS.keys()
