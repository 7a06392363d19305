"""Compare networks and losses in float64 with arrays recorded from the paper authors' own code."""

import pytest
from golden.compare import LEVELS_OF_DETAIL, Stage, compute_relative_error, load_golden

from pggan.networks.operations import leaky_relu
from pggan.networks.progressive import GeneratorBlock
from pggan.training.losses import WGANGP


@pytest.fixture(
    scope="module",
    params=[(name, i) for name, count in LEVELS_OF_DETAIL.items() for i in range(count)],
    ids=lambda p: f"{p[0]}-lod{p[1]}",
)
def stage(request):
    name, index = request.param
    meta, arrays = load_golden(name)
    assert len(arrays["lods"]) == LEVELS_OF_DETAIL[name]
    return Stage(meta, arrays, index)


def test_images_match_the_official_code(stage):
    assert stage.images_error() < 1e-5


def test_scores_and_label_logits_match_the_official_code(stage):
    assert stage.scores_error() < 1e-5


def test_gradient_norms_are_with_respect_to_full_resolution_pixels(stage):
    assert stage.gradient_norms_error() < 1e-5


def test_losses_match_the_official_code(stage):
    assert stage.losses_error() < 1e-5


def test_discriminator_gradients_match_the_official_code(stage):
    assert stage.d_gradients_error() < 1e-4


def test_generator_gradients_match_the_official_code(stage):
    assert stage.g_gradients_error() < 1e-4


# Classic mistakes, made on purpose: the comparisons above must detect each of them.


def make_stage(index=4):  # 4: a fade below the full resolution
    meta, arrays = load_golden("official_rgb32")
    return Stage(meta, arrays, index)


def test_a_wrong_gain_is_detected():
    stage = make_stage()
    stage.G.to_rgb[2].scale *= 2**0.5
    assert stage.images_error() > 0.01


def test_pixel_norm_before_the_activation_is_detected(monkeypatch):
    def wrong(self, x):
        x = leaky_relu(self.norm(self.up(x)))
        return leaky_relu(self.norm(self.conv(x)))

    monkeypatch.setattr(GeneratorBlock, "forward", wrong)
    assert make_stage().images_error() > 0.01


def test_a_penalty_on_native_pixels_is_detected():
    stage = make_stage()
    stage.loss = WGANGP(full_resolution=stage.resolution)
    assert stage.gradient_norms_error() > 0.5
    assert compute_relative_error(stage.discriminator_loss()["d_loss"].item(), stage.golden["d_loss"]) > 1e-3
