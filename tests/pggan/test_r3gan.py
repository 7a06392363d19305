"""Compare R3GAN's networks, losses and schedules with the authors' code."""

import math
import re

import pytest
import torch
from golden.compare import compute_relative_error, load_arrays, select_prefix
from test_steps import make_batch

from pggan.config import ConfigError, resolve_config
from pggan.interop.exported import ExportModule, trace_program
from pggan.networks import build
from pggan.networks.r3gan import R3GANDiscriminator, R3GANGenerator, ResidualBlock, stage_widths
from pggan.training.graphs import uses_graphs
from pggan.training.growth import GrowthController
from pggan.training.losses import RELATIVISTIC, Loss, find_cautions
from pggan.training.state import TrainState
from pggan.training.steps import Stepper

SHAPE = {"resolution": 8, "channels": 3, "label_size": 0, "fmap_base": 32, "fmap_decay": 1.0, "fmap_max": 16}
LAYERS = {  # of the authors' code -> ours
    r"LinearLayer1.Layer.weight": "expand.weight",
    r"NonLinearity1.Bias": "expand.bias",
    r"LinearLayer2.Layer.weight": "conv.weight",
    r"NonLinearity2.Bias": "conv.bias",
    r"LinearLayer3.Layer.weight": "reduce.weight",
    r"LinearLayer.Layer.weight": "project.weight",
}


def rename(network, name):
    """Return our name of one of the authors' parameters; each of their stages has a transition and two blocks."""
    if name == "AggregationLayer.Layer.weight":
        return "rest.5.weight"
    if name == "ExtractionLayer.Layer.weight":
        return "layers.0.weight"
    stage, layer, part = re.fullmatch(r"MainLayers\.(\d)\.Layers\.(\d)\.(.+)", name).groups()
    index = 3 * int(stage) + int(layer)
    if network == "G" and index == 0:
        return {"Basis": "first.basis", "LinearLayer.weight": "first.scale.weight"}[part]
    if network == "D" and index == 5:
        return {"Basis.weight": "layers.6.basis", "LinearLayer.weight": "layers.6.output.weight"}[part]
    return (f"rest.{index - 1}" if network == "G" else f"layers.{index + 1}") + "." + LAYERS[part]


@pytest.fixture(scope="module")
def golden():
    return load_arrays("r3gan")


@pytest.fixture
def networks(golden):
    """Return (G, D) in float64 with the authors' weights."""
    built = R3GANGenerator(latent_size=12, **SHAPE), R3GANDiscriminator(**SHAPE)
    for name, network in zip("GD", built, strict=True):
        own = network.state_dict()
        theirs = {rename(name, key): torch.tensor(array) for key, array in select_prefix(golden, f"{name}/").items()}
        network.load_state_dict(own | {key: array.view_as(own[key]) for key, array in theirs.items()})
        network.double()
    return built


def to_double(array):
    return torch.tensor(array, dtype=torch.float64)


def test_images_and_scores_match_the_authors_code(networks, golden):
    G, D = networks
    assert compute_relative_error(G(to_double(golden["latents"][0])), golden["images"]) < 1e-5
    assert compute_relative_error(D(to_double(golden["reals"]))[0], golden["scores"]) < 1e-5


def test_losses_and_gradients_match_the_authors_code(networks, golden):
    G, D = networks
    loss, reals = Loss(RELATIVISTIC, r1=0.7, r2=0.7), to_double(golden["reals"])  # 0.7: the recorded gamma
    fakes = [G(to_double(z)) for z in golden["latents"]]
    d_loss = loss.discriminator_loss(D, reals, fakes[0].detach(), torch.zeros(()))["d_loss"]
    assert d_loss.item() == pytest.approx(golden["d_loss"].mean(), rel=1e-5)
    d_loss.backward()
    g_loss = loss.generator_loss(D, fakes[1], reals=reals)["g_loss"]
    assert g_loss.item() == pytest.approx(golden["g_loss"].mean(), rel=1e-5)
    g_loss.backward(inputs=list(G.parameters()))
    for name, network in zip("GD", networks, strict=True):
        own = dict(network.named_parameters())
        recorded = select_prefix(golden, f"d{name}/")
        assert {rename(name, key) for key in recorded} == own.keys()
        for key, gradient in recorded.items():
            ours = own[rename(name, key)].grad
            assert compute_relative_error(ours, gradient.reshape(ours.shape)) < 1e-5, key


def test_networks_have_the_authors_sizes_and_initialization():
    assert stage_widths(64, 12288, 1.0, 768) == [768, 768, 768, 768, 384]  # FFHQ-64 in the authors' train.py
    assert stage_widths(256, 12288, 1.0, 768)[-2:] == [192, 96]
    torch.manual_seed(0)
    block = ResidualBlock(768, blocks=10)
    assert block.conv.groups == 96 and block.expand.weight.shape == (1536, 768, 1, 1)
    gain = math.sqrt(2 / 1.04) * 10 ** (-1 / 4)
    assert block.expand.weight.std().item() == pytest.approx(gain / math.sqrt(768), rel=0.01)
    assert block.conv.weight.std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.01)
    x = torch.randn(1, 768, 2, 2)
    assert torch.equal(block(x), x)  # the last layer starts at zero
    assert ResidualBlock(12, blocks=2).conv.groups == 1
    shape = SHAPE | {"fmap_base": 512, "fmap_max": 256}
    G, D = R3GANGenerator(latent_size=128, **shape), R3GANDiscriminator(**shape)  # 256 maps at 4x4, 128 at 8x8
    own = [module for network in (G, D) for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(own) == 8  # two per stage and network; L = 4 in each network
    for block in own:
        expected = math.sqrt(2 / 1.04) * 4 ** (-1 / 4) / math.sqrt(block.expand.weight.shape[1])
        assert block.expand.weight.std().item() == pytest.approx(expected, rel=0.02)
    for weight, expected in {
        G.first.basis: 1,
        G.first.scale.weight: 128**-0.5,
        D.layers[-1].basis: 1 / 4,
        D.layers[-1].output.weight: 256**-0.5,
        G.rest[2].project.weight: 256**-0.5,
        G.rest[-1].weight: 128**-0.5,
        D.layers[0].weight: 3**-0.5,
    }.items():
        assert weight.std().item() == pytest.approx(expected, rel=0.15 if weight.numel() < 1000 else 0.05)


def test_the_preset_has_the_authors_configuration_for_ffhq_64():
    config = resolve_config({"data": "synthetic", "resolution": 64, "preset": "r3gan"})
    assert (config.latent_size, config.batch_size, config.r_weight, config.loss) == (64, {4: 256}, 0.2, "relativistic")
    assert find_cautions(config) == []


@pytest.mark.parametrize(
    "options, message",
    [
        ({"arch": "r3gan"}, "is not R3GAN; use --preset r3gan without --loss"),
        ({"preset": "r3gan", "total_kimg": 500}, "ends at 500 kimg"),
        ({"preset": "r3gan", "stabilize_kimg": "4:30000,32:50"}, "ends at 50 kimg"),
    ],
)
def test_what_is_not_r3gan_is_reported(options, message):
    assert message in " ".join(find_cautions(resolve_config({"data": "synthetic", "resolution": 64} | options)))


@pytest.mark.parametrize("resolution", [4, 16])
def test_any_resolution_and_classes_work(resolution):
    shape = SHAPE | {"arch": "r3gan", "resolution": resolution, "label_size": 3}
    G, D = build("generator", shape | {"latent_size": 12}), build("discriminator", shape)
    images = G(torch.randn(2, 12), torch.eye(3)[:2])
    assert images.shape == (2, 3, resolution, resolution) and D(images)[1].shape == (2, 3)


def test_the_generator_can_be_exported():
    G = R3GANGenerator(latent_size=12, **SHAPE).eval()
    drawing = ExportModule(G, 8, 1.0)
    z = torch.randn(3, 12)
    assert torch.allclose(trace_program(drawing).module()(z), G(z), atol=1e-5)


BURN_IN = {
    "data": "synthetic",
    "resolution": 8,
    "channels": 3,
    "preset": "r3gan",
    "fmap_base": 32,
    "fmap_max": 16,
    "batch_size": 8,
}


@pytest.mark.parametrize(
    "images, weight", [(0, 1.0), (5_000_000, 0.5 + math.sqrt(0.125)), (10_000_000, 0.5), (20_000_000, 0)]
)
def test_burn_in_goes_from_the_authors_first_values_to_their_last(images, weight):
    config = resolve_config(BURN_IN | {"total_kimg": 30000})
    phase, stepper = GrowthController(config).phase(images), Stepper.from_config(config, bf16=False)
    assert phase.burn_in == pytest.approx(weight)

    def mix(first, last):
        return pytest.approx(last + weight * (first - last), rel=1e-6)

    assert phase.lr == mix(2e-4, 5e-5)
    assert stepper.at_burn_in(phase.burn_in).loss.r1 == stepper.at_burn_in(phase.burn_in).loss.r2 == mix(2, 0.2)
    state = TrainState(config, 0, torch.device("cpu"))
    state.images = images
    stepper.step(state, make_batch(), phase)
    for optimizer in (state.g_optimizer, state.d_optimizer):
        assert optimizer.param_groups[0]["betas"] == (0, mix(0.9, 0.99))
    decay = stepper.at_burn_in(phase.burn_in).ema_decay
    half_life = 0 if decay == 0 else 256 * math.log(0.5) / math.log(decay)
    assert half_life == pytest.approx((1 - weight) * 500_000, rel=1e-3)


def test_without_burn_in_nothing_is_scheduled():
    config = resolve_config(BURN_IN | {"burn_in_kimg": 0})
    stepper, phase = Stepper.from_config(config, bf16=False), GrowthController(config).phase(0)
    assert phase.burn_in == 0 and phase.lr == 5e-5 and stepper.at_burn_in(0.0) is stepper


def test_a_burn_in_uses_no_cuda_graphs():
    config = resolve_config(BURN_IN | {"arch": "pggan", "burn_in_kimg": 1})
    assert not uses_graphs(config, torch.device("cuda"))
    with pytest.raises(ConfigError, match="no --burn-in-kimg"):
        uses_graphs(resolve_config(BURN_IN | {"cuda_graphs": True}), torch.device("cuda"))
