"""Every architecture through the common interface: shapes, training, EMA, checkpoints, rejected options."""

import json

import pytest
import torch
from test_steps import copy_weights, make_batch
from torch import nn

from pggan import load
from pggan.checkpoints import CheckpointError
from pggan.checkpoints import load as load_checkpoint
from pggan.config import ConfigError, TrainConfig, resolve_config
from pggan.networks import ARCHITECTURES, build, generate, to_one_hot
from pggan.networks.layers import EqualizedConv2d, PixelNorm, downscale
from pggan.networks.multiscale import pyramid
from pggan.training import train
from pggan.training.growth import GrowthController
from pggan.training.losses import ADVERSARIAL, Loss, find_cautions
from pggan.training.plan import compute_costs_per_image, estimate_memory
from pggan.training.resume import check_networks
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


def make_state(arch, labels=0, **options):
    options = {"hidden": "16,8", "d_hidden": "8,8"} | options if arch in ("mlp", "hybrid") else options
    config = resolve_config(OPTIONS | options | {"arch": arch})
    return config, TrainState(config, labels, torch.device("cpu"))


@pytest.mark.parametrize("channels, labels", [(3, 0), (1, 5)])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_networks_map_latents_to_images_and_images_to_scores(arch, channels, labels):
    _, state = make_state(arch, labels, channels=channels)
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
def test_two_batches_in_one_pass_score_as_they_do_separately(arch):
    _, state = make_state(arch, 3, resolution=16)
    batches = torch.randn(2, 8, 3, 16, 16)
    joint = [x.chunk(2) for x in state.D(batches.flatten(0, 1), batches=2)]
    for i, images in enumerate(batches):
        for ours, alone in zip(joint, state.D(images), strict=True):
            assert torch.allclose(ours[i], alone, atol=1e-5)


@pytest.mark.parametrize("arch", ["mlp", "dcgan", "hybrid"])
def test_single_stage_networks_reject_other_resolutions(arch):
    _, state = make_state(arch)
    with pytest.raises(ValueError, match="only the stage 8x8, not 4x4"):
        state.G(torch.randn(4, 8), resolution=4)
    with pytest.raises(ValueError, match=r"shape \[4, 3, 4, 4\], expected \[N, 3, 8, 8\]"):
        state.D(torch.randn(4, 3, 4, 4))


def test_layers_match_the_options():
    _, mlp = make_state("mlp", hidden="24,12", d_hidden="10")
    assert [m.out_features for m in mlp.G.modules() if isinstance(m, nn.Linear)] == [24, 12, 192]
    assert [m.out_features for m in mlp.D.modules() if isinstance(m, nn.Linear)] == [10, 1]
    _, hybrid = make_state("hybrid", d_hidden="6,7")
    convolutions = [m for m in hybrid.D.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.out_channels, m.kernel_size, m.stride) for m in convolutions] == [
        (6, (3, 3), (2, 2)),
        (7, (3, 3), (2, 2)),
    ]
    _, dcgan = make_state("dcgan", resolution=32, fmap_base=128, fmap_max=16)
    ups = [m for m in dcgan.G.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [(m.in_channels, m.out_channels) for m in ups] == [(16, 16), (16, 16), (16, 3)]
    for network, kind, count in ((dcgan.G, nn.ReLU, 3), (dcgan.D, nn.LeakyReLU, 3)):  # Radford et al., section 3
        assert [type(m) for m in network.modules() if isinstance(m, (nn.ReLU, nn.LeakyReLU))] == [kind] * count
    downs = [m for m in dcgan.D.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in downs] == [(3, 16), (16, 16), (16, 16)]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in dcgan.D.modules()) == 2


@pytest.mark.parametrize("loss, penalty", [("nonsaturating", "none"), ("relativistic", "r1+r2"), ("wgan-gp", "gp")])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_trains_with_labels_under_several_losses(arch, loss, penalty):
    config, state = make_state(arch, labels=4, loss=loss, penalty=penalty)
    before = {name: copy_weights(getattr(state, name)) for name in ("G", "D", "G_ema")}
    phase = GrowthController(config).phase(10**9)
    for _ in range(2):  # R3GAN's residual branches end in a layer of zeros, so the layers before it start a step later
        Stepper.from_config(config, bf16=False).step(state, make_batch(labels=4), phase)
    for name, old in before.items():
        changed = [not torch.equal(a, b) for a, b in zip(old, copy_weights(getattr(state, name)), strict=True)]
        if arch != "pggan":  # pggan runs only the current stage's RGB layers
            assert all(changed), f"{name}: {changed}"
        assert any(changed)
    assert state.average_sums()["skipped"] == 0


def test_a_dcgan_of_an_earlier_version_keeps_its_activation_and_cannot_be_trained():
    _, state = make_state("dcgan")
    saved = {name: dict(arguments) for name, arguments in state.arguments.items()}
    check_networks("x.pt", saved, state.arguments)
    assert saved["generator"].pop("activation") == "relu"
    older = build("generator", saved["generator"])
    assert any(isinstance(m, nn.LeakyReLU) for m in older.modules())
    with pytest.raises(CheckpointError, match="had leaky ReLU in the generator"):
        check_networks("x.pt", saved, state.arguments)


def test_ema_averages_running_statistics_and_generates_with_them():
    _, state = make_state("dcgan")
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


def test_generator_receives_gradients_from_every_scale():
    _, state = make_state("msg", resolution=16)
    z = torch.randn(4, 8)
    images = state.G.pyramid(z)
    assert [x.shape[-1] for x in images] == [4, 8, 16]
    assert torch.equal(images[-1], state.G(z)) and torch.equal(images[0], state.G(z, resolution=4))
    for x in images:
        x.retain_grad()
    Loss(ADVERSARIAL["wgan"]).generator_loss(state.D, images)["g_loss"].backward()
    assert all(x.grad.abs().sum() > 0 for x in images)


def test_real_images_are_averaged_down_to_every_scale():
    x = torch.rand(2, 3, 16, 16)
    scales = pyramid(x)
    assert torch.equal(scales[1], downscale(x)) and torch.equal(scales[0], downscale(downscale(x)))
    _, state = make_state("msg", resolution=16)
    assert torch.equal(state.D(x)[0], state.D(scales)[0])
    with pytest.raises(ValueError, match=r"sizes \[4, 8\] in pixels, expected \[4, 8, 16\]"):
        state.D(scales[:2])


def test_switches_turn_off_the_papers_components():
    _, paper = make_state("pggan", resolution=16)
    _, plain = make_state("pggan", resolution=16, equalized_lr=False, pixel_norm=False, minibatch_stddev=False)
    z = torch.randn(4, 8)
    _, unscaled = make_state("pggan", resolution=16, equalized_lr=False)
    assert torch.allclose(paper.G(z), unscaled.G(z), atol=1e-4)  # the same function until the first update
    assert all(m.scale == 1 for m in plain.G.modules() if isinstance(m, EqualizedConv2d))
    assert sum(isinstance(m, PixelNorm) for m in plain.G.modules()) == 1  # the one on the latents
    assert plain.D.conv.weight.shape[1] == paper.D.conv.weight.shape[1] - 1
    images = torch.randn(4, 3, 16, 16)
    assert torch.allclose(plain.D(images)[0][:2], plain.D(images[:2])[0], atol=1e-4)
    assert not torch.allclose(paper.D(images)[0][:2], paper.D(images[:2])[0], atol=1e-6)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_plan_estimates_cost_and_memory_of_every_architecture(arch):
    config, state = make_state(arch, growing=False, optimizer="rmsprop")
    (row,) = GrowthController(config).rows()
    costs = compute_costs_per_image(state.arguments)
    assert row.resolution == 8 and costs[8] > 0
    assert estimate_memory(config, state, GrowthController(config).phase(0), False) > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"arch": "dcgan", "resolution": 4}, "--arch dcgan needs at least 8x8 pixels; use --resolution 8"),
        ({"hidden": "16"}, "--hidden applies to --arch mlp and hybrid only"),
        ({"arch": "dcgan", "d_hidden": "16"}, "--d-hidden applies to --arch mlp and hybrid only"),
        ({"arch": "mlp", "pixel_norm": False}, "--no-pixel-norm applies to --arch pggan and msg only"),
        ({"arch": "msg", "augment": "diffaug"}, "--augment diffaug does not work with --arch msg"),
        ({"arch": "dcgan", "micro_batch": 4}, "--micro-batch does not work with --arch dcgan"),
        ({"arch": "mlp", "hidden": "0"}, "--hidden: '0'"),
        ({"arch": "mlp", "hidden": "a,b"}, "--hidden: 'a,b' is not a list"),
        ({"arch": "vae"}, "--arch: 'vae' is not one of"),
    ],
)
def test_incompatible_options_are_rejected_with_one_sentence(options, message):
    with pytest.raises(ConfigError) as error:
        TrainConfig(**options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_penalty_through_batch_norm_triggers_a_warning():
    (sentence,) = find_cautions(TrainConfig(arch="dcgan"))
    assert "batch norm" in sentence
    assert find_cautions(TrainConfig(arch="dcgan", loss="nonsaturating")) == []


def test_unknown_architectures_are_rejected():
    with pytest.raises(ValueError, match="unknown architecture 'vae'"):
        build("generator", {"arch": "vae"})


RUN = {
    "data": "synthetic",
    "channels": 3,
    "resolution": 8,
    "fmap_base": 32,
    "fmap_max": 8,
    "batch_size": 8,
    "stabilize_kimg": 0.05,
    "fade_kimg": 0.05,
    "tick_kimg": 0.05,
    "metrics": "none",
    "track": "none",
    "device": "cpu",
}


@pytest.mark.parametrize("arch", OLDER)
def test_a_run_trains_saves_and_samples(arch, tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    train(resolve_config(RUN | {"arch": arch, "out": str(tmp_path / "run")}))
    trained = load(tmp_path / "run")
    images = trained.sample(6)
    assert images.shape == (6, 3, 8, 8) and torch.equal(images[2:4], trained.sample(2, seed=2))
    assert not torch.equal(images, trained.sample(6, truncation=0.5))
    assert trained.resolutions == ([4, 8] if arch == "msg" else [8]) and not trained.is_grown
    with pytest.raises(ValueError, match="was not grown progressively"):
        trained.at(alpha=0.5)
    content = load_checkpoint(tmp_path / "run" / "checkpoints" / "stage-0008.pt")
    assert content["networks"]["generator"]["arch"] == arch
    (end,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert end["stage_end"] and end["resolution"] == 8


def test_lower_stages_of_a_non_growing_network_are_rejected(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    train(resolve_config(RUN | {"growing": False, "out": str(tmp_path / "run")}))
    with pytest.raises(ValueError, match="4x4 was not trained: this network has one stage"):
        load(tmp_path / "run").at(4)
