"""Every architecture through the common interface: shapes, training, EMA, checkpoints, rejected options."""

import json

import pytest
import torch
from test_steps import batch, weights
from torch import nn

from checkpoints import load as load_checkpoint
from pggan import load
from pggan.config import ConfigError, TrainConfig, resolve_config
from pggan.networks import ARCHITECTURES, build, generate, to_one_hot
from pggan.networks.layers import EqualizedConv2d, PixelNorm, downscale
from pggan.networks.multiscale import pyramid
from pggan.training import train
from pggan.training.growth import GrowthController
from pggan.training.losses import ADVERSARIAL, Loss, find_cautions
from pggan.training.plan import compute_costs_per_image, estimate_memory
from pggan.training.state import TrainState
from pggan.training.steps import Stepper, update_ema

OPTIONS = {
    "data": "synthetic",
    "channels": 3,
    "resolution": 8,
    "fmap_base": 32,
    "fmap_max": 8,
    "batch_size": 8,
    "latent_size": 8,
}
OLDER = [name for name in ARCHITECTURES if name != "pggan"]


def new_state(arch, labels=0, **options):
    options = {"hidden": "16,8", "d_hidden": "8,8"} | options if arch in ("mlp", "hybrid") else options
    config = resolve_config(OPTIONS | options | {"arch": arch})
    return config, TrainState(config, labels, torch.device("cpu"))


@pytest.mark.parametrize("channels, labels", [(3, 0), (1, 5)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_latents_become_images_and_images_scores(arch, channels, labels):
    _, state = new_state(arch, labels, channels=channels)
    hot = to_one_hot(torch.arange(4) % labels, labels) if labels else None
    images = state.G(torch.randn(4, 8), hot, resolution=8, alpha=1.0)
    scores, logits = state.D(images, resolution=8, alpha=1.0)
    assert images.shape == (4, channels, 8, 8) and scores.shape == (4,) and logits.shape == (4, labels)
    if arch in ("mlp", "dcgan", "hybrid"):
        assert images.abs().max() <= 1
    if labels:
        with pytest.raises(ValueError, match="labels"):
            state.G(torch.randn(4, 8))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_two_batches_in_one_pass_are_judged_as_if_alone(arch):
    _, state = new_state(arch, 3, resolution=16)
    batches = torch.randn(2, 8, 3, 16, 16)
    joint = [x.chunk(2) for x in state.D(batches.flatten(0, 1), batches=2)]
    for i, images in enumerate(batches):
        for ours, alone in zip(joint, state.D(images), strict=True):
            assert torch.allclose(ours[i], alone, atol=1e-5)


@pytest.mark.parametrize("arch", ["mlp", "dcgan", "hybrid"])
def test_networks_of_one_stage_refuse_another(arch):
    _, state = new_state(arch)
    with pytest.raises(ValueError, match="only the stage 8x8, not 4x4"):
        state.G(torch.randn(4, 8), resolution=4)
    with pytest.raises(ValueError, match=r"shape \[4, 3, 4, 4\], expected \[N, 3, 8, 8\]"):
        state.D(torch.randn(4, 3, 4, 4))


def test_layers_are_those_of_the_options():
    _, mlp = new_state("mlp", hidden="24,12", d_hidden="10")
    assert [m.out_features for m in mlp.G.modules() if isinstance(m, nn.Linear)] == [24, 12, 192]
    assert [m.out_features for m in mlp.D.modules() if isinstance(m, nn.Linear)] == [10, 1]
    _, hybrid = new_state("hybrid", d_hidden="6,7")
    convolutions = [m for m in hybrid.D.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (6, (3, 3), (2, 2)),
        (7, (3, 3), (2, 2)),
    ]
    _, dcgan = new_state("dcgan", resolution=32, fmap_base=128, fmap_max=16)
    ups = [m for m in dcgan.G.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [(16, 16), (16, 16), (16, 3)]
    downs = [m for m in dcgan.D.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in downs] == [(3, 16), (16, 16), (16, 16)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in dcgan.D.modules()) == 2


@pytest.mark.parametrize("loss, penalty", [("nonsaturating", "none"), ("relativistic", "r1+r2"), ("wgan-gp", "gp")])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_each_trains_under_other_losses_with_labels_too(arch, loss, penalty):
    config, state = new_state(arch, labels=4, loss=loss, penalty=penalty)
    before = {name: weights(getattr(state, name)) for name in ("G", "D", "G_ema")}
    phase = GrowthController(config).phase(10**9)
    Stepper.from_config(config, bf16=False).step(state, batch(labels=4), phase)
    for name, old in before.items():
        changed = [not torch.equal(a, b) for a, b in zip(old, weights(getattr(state, name)), strict=True)]
        if arch != "pggan":  # pggan runs only the current stage's RGB layers
            assert all(changed), f"{name}: {changed}"
        assert any(changed)
    assert state.average_sums()["skipped"] == 0


def test_averages_hold_running_statistics_and_draw_by_them():
    _, state = new_state("dcgan")
    state.G(torch.randn(64, 8) + 1)
    old = {name: b.clone() for name, b in state.G_ema.named_buffers()}
    update_ema(state.G_ema, state.G, 0.75)
    trained = dict(state.G.named_buffers())
    for name, buffer in state.G_ema.named_buffers():
        expected = 0.75 * old[name] + 0.25 * trained[name] if buffer.is_floating_point() else trained[name]
        assert torch.allclose(buffer, expected) and not torch.equal(buffer, old[name])
    z = torch.randn(6, 8)
    assert not state.G_ema.training
    assert torch.equal(generate(state.G_ema, z, None, 8)[:2], generate(state.G_ema, z[:2], None, 8))


def test_every_scale_gives_gradients_to_the_generator():
    _, state = new_state("msg", resolution=16)
    z = torch.randn(4, 8)
    images = state.G.pyramid(z)
    assert [x.shape[-1] for x in images] == [4, 8, 16]
    assert torch.equal(images[-1], state.G(z)) and torch.equal(images[0], state.G(z, resolution=4))
    for x in images:
        x.retain_grad()
    Loss(ADVERSARIAL["wgan"]).generator_loss(state.D, images)["g_loss"].backward()
    assert all(x.grad.abs().sum() > 0 for x in images)


def test_real_images_are_shown_at_every_scale_by_averaging():
    x = torch.rand(2, 3, 16, 16)
    scales = pyramid(x)
    assert torch.equal(scales[1], downscale(x)) and torch.equal(scales[0], downscale(downscale(x)))
    _, state = new_state("msg", resolution=16)
    assert torch.equal(state.D(x)[0], state.D(scales)[0])
    with pytest.raises(ValueError, match=r"sizes \[4, 8\] in pixels, expected \[4, 8, 16\]"):
        state.D(scales[:2])


def test_the_papers_switches():
    _, paper = new_state("pggan", resolution=16)
    _, plain = new_state("pggan", resolution=16, equalized_lr=False, pixel_norm=False, minibatch_stddev=False)
    z = torch.randn(4, 8)
    _, unscaled = new_state("pggan", resolution=16, equalized_lr=False)
    assert torch.allclose(paper.G(z), unscaled.G(z), atol=1e-4)  # the same function until the first update
    assert all(m.scale == 1 for m in plain.G.modules() if isinstance(m, EqualizedConv2d))
    assert sum(isinstance(m, PixelNorm) for m in plain.G.modules()) == 1  # the one on the latents
    assert plain.D.conv.weight.shape[1] == paper.D.conv.weight.shape[1] - 1
    images = torch.randn(4, 3, 16, 16)
    assert torch.allclose(plain.D(images)[0][:2], plain.D(images[:2])[0], atol=1e-4)
    assert not torch.allclose(paper.D(images)[0][:2], paper.D(images[:2])[0], atol=1e-6)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_plan_knows_what_each_costs(arch):
    config, state = new_state(arch, growing=False, optimizer="rmsprop")
    (row,) = GrowthController(config).rows()
    costs = compute_costs_per_image(state.arguments)
    assert row.resolution == 8 and costs[8] > 0
    assert estimate_memory(config, state, GrowthController(config).phase(0), False) > 0


@pytest.mark.parametrize(
    "options, says",
    [
        ({"arch": "dcgan", "resolution": 4}, "--arch dcgan begins with images of 8x8"),
        ({"hidden": "16"}, "--hidden is for --arch mlp and hybrid"),
        ({"arch": "dcgan", "d_hidden": "16"}, "--d-hidden is for --arch mlp and hybrid"),
        ({"arch": "mlp", "pixel_norm": False}, "--no-pixel-norm is for --arch pggan and msg"),
        ({"arch": "msg", "augment": "diffaug"}, "--augment diffaug is not there for --arch msg"),
        ({"arch": "dcgan", "micro_batch": 4}, "--micro-batch: the batch norm"),
        ({"arch": "mlp", "hidden": "0"}, "--hidden: '0'"),
        ({"arch": "mlp", "hidden": "a,b"}, "--hidden: 'a,b' is not a list"),
        ({"arch": "vae"}, "--arch: 'vae' is not one of"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(options, says):
    with pytest.raises(ConfigError) as refusal:
        TrainConfig(**options)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_penalty_through_batch_norm_is_warned_of():
    (sentence,) = find_cautions(TrainConfig(arch="dcgan"))
    assert "batch norm" in sentence
    assert find_cautions(TrainConfig(arch="dcgan", loss="nonsaturating")) == []


def test_unknown_architectures_are_not_built():
    with pytest.raises(ValueError, match="unknown architecture 'vae'"):
        build("generator", {"arch": "vae"})


RUN = {
    "data": "synthetic",
    "channels": 3,
    "resolution": 8,
    "fmap_base": 32,
    "fmap_max": 8,
    "batch_size": 8,
    "stabilize_kimg": 0.3,
    "fade_kimg": 0.3,
    "tick_kimg": 0.1,
    "metrics": "none",
    "track": "none",
    "device": "cpu",
}


@pytest.mark.parametrize("arch", OLDER)
def test_a_run_is_trained_saved_and_drawn_from(arch, tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    train(resolve_config(RUN | {"arch": arch, "out": str(tmp_path / "run")}))
    trained = load(tmp_path / "run")
    images = trained.sample(6)
    assert images.shape == (6, 3, 8, 8) and torch.equal(images[2:4], trained.sample(2, seed=2))
    assert not torch.equal(images, trained.sample(6, truncation=0.5))
    assert trained.resolutions == ([4, 8] if arch == "msg" else [8]) and not trained.is_grown
    with pytest.raises(ValueError, match="did not grow"):
        trained.at(alpha=0.5)
    content = load_checkpoint(tmp_path / "run" / "checkpoints" / "stage-0008.pt")
    assert content["networks"]["generator"]["arch"] == arch
    (end,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert end["stage_end"] and end["resolution"] == 8


def test_lower_stages_of_a_network_that_never_grew_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(tmp_path / "cache"))
    train(resolve_config(RUN | {"growing": False, "out": str(tmp_path / "run")}))
    with pytest.raises(ValueError, match="4x4 is not trained: this network has one stage"):
        load(tmp_path / "run").at(4)
