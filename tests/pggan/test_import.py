"""Imported weights generate the same images as the codebase they come from; other files are rejected."""

import json
import math
import os
import pickle
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pggan import Discriminator, Generator
from pggan.interop import WeightsError, read_weights

GOLDEN = Path(os.environ.get("PGGAN_GOLDEN", Path(__file__).parents[1] / "golden"))
PROGAN128 = Path(__file__).parents[2] / ".assets" / "progan128"


def build(weights, name="generator", state="G_ema"):
    network = {"generator": Generator, "discriminator": Discriminator}[name](**weights.networks[name])
    network.load_state_dict(weights.state[state], strict=name == "discriminator")
    return network.double().requires_grad_(False)


# The paper authors' snapshots


def test_official_snapshot_generates_the_official_images():
    weights = read_weights(GOLDEN / "official_gray16_labels.pkl")
    with np.load(GOLDEN / "official_gray16_labels_Gs.npz") as expected:
        latents, labels, images = (torch.tensor(expected[name]).double() for name in ("latents", "labels", "images"))
    assert (weights.resolution, weights.alpha) == (4, 1.0)  # its lod is 2: two levels below its 16x16
    for state, equal in (("G_ema", True), ("G", False)):
        drawn = build(weights, state=state)(latents, labels, resolution=weights.resolution)
        assert torch.allclose(F.interpolate(drawn, scale_factor=4), images, atol=1e-5) is equal


def test_official_generator_and_discriminator_match_the_golden_arrays():
    weights = read_weights(GOLDEN / "official_gray16_labels.pkl")
    with np.load(GOLDEN / "official_gray16_labels.npz") as expected:
        index = list(expected["lods"]).index(0)
        latents, labels = torch.tensor(expected["latents"]).double(), torch.tensor(expected["labels"]).double()
        assert np.allclose(build(weights, state="G")(latents, labels), expected[f"lod{index}/fake"], atol=1e-5)
        scores, logits = build(weights, "discriminator", "D")(torch.tensor(expected["reals"]).double())
        assert np.allclose(scores, expected[f"lod{index}/real_scores"].ravel(), atol=1e-5)
        assert np.allclose(logits, expected[f"lod{index}/real_label_logits"], atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"fmap_base": 2**40, "fmap_max": 2**31},
        {"resolution": 2**20},
        {"label_size": 2**62},
        {"fmap_base": "x"},
        {"use_pixelnorm": False},
        {"invented": 1},
    ],
)
def test_invalid_or_unknown_arguments_are_rejected(changes, tmp_path, monkeypatch):
    import pggan.interop.recognize as recognize

    networks = recognize.read_snapshot((GOLDEN / "official_gray16_labels.pkl").read_bytes(), ("tfutil.Network",))
    for network in networks:
        network.state["static_kwargs"] |= changes
    monkeypatch.setattr(recognize, "read_snapshot", lambda *_, **__: networks)
    with pytest.raises(WeightsError, match=r"official_gray16_labels\.pkl: unsupported networks: ") as error:
        read_weights(GOLDEN / "official_gray16_labels.pkl")
    assert "\n" not in str(error.value)


# TensorFlow Hub's progan-128


@pytest.mark.skipif(not PROGAN128.exists(), reason="progan-128 (92 MB) is not at .assets/progan128")
def test_progan_128_generates_the_published_images():
    weights = read_weights(PROGAN128)
    generator = Generator(**weights.networks["generator"])
    generator.load_state_dict(weights.state["G_ema"], strict=False)
    with np.load(GOLDEN / "progan128_expect.npz") as expected:
        latents, images = torch.tensor(expected["latents"]), torch.tensor(expected["images"]).float()
    with torch.no_grad():
        drawn = (generator(latents) / 2 + 0.5).clamp(0, 1)
    assert (drawn - images).abs().max() < 1e-3  # the golden images are float16


def write_tfjs(folder, generator, **changes):
    """Write a generator as TensorFlow.js's converter does: kernels include their scale, images are in [0, 1]."""
    folder.mkdir()
    kernels, biases = [generator.dense.scaled_weight().permute(2, 3, 0, 1).flip(0, 1)], [generator.dense.bias]
    for layer in [generator.conv, *(conv for block in generator.blocks for conv in (block.up, block.conv))]:
        kernels.append(layer.scaled_weight().permute(2, 3, 1, 0))
        biases.append(layer.bias)
    kernels.append(generator.to_rgb[-1].scaled_weight().permute(2, 3, 1, 0) / 2)
    biases.append(generator.to_rgb[-1].bias / 2 + 0.5)
    others = "BatchToSpaceND Const Maximum Mean Minimum Mul Pad Placeholder Reshape Rsqrt Square Tile".split()
    nodes, weights, content = [{"op": op, "name": op} for op in others], [], b""
    for i, (kernel, bias) in enumerate(zip(kernels, biases, strict=True)):
        for name, tensor in ((f"kernel{i}", kernel), (f"bias{i}", bias)):
            weights.append({"name": name, "shape": list(tensor.shape), "dtype": "float32"})
            content += tensor.detach().numpy().tobytes()
        nodes.append({"op": "Conv2D", "name": f"conv{i}", "input": [f"x{i}", f"kernel{i}"]})
        nodes.append({"op": "Add", "name": f"add{i}", "input": [f"conv{i}", f"bias{i}"]})
    (folder / "shard1.bin").write_bytes(content[:1001])
    (folder / "shard2.bin").write_bytes(content[1001:])
    model = {
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"paths": ["shard1.bin", "shard2.bin"], "weights": weights}],
    }
    (folder / "model.json").write_text(json.dumps(model | changes))
    return folder


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    generator = Generator(16, fmap_base=64, fmap_max=16)
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return generator


def test_a_generator_round_trips_through_tensorflow_js(small, tmp_path):
    weights = read_weights(write_tfjs(tmp_path / "model", small) / "model.json")
    latents = torch.randn(3, 16)
    with torch.no_grad():
        assert torch.allclose(build(weights)(latents.double()), small(latents).double(), atol=1e-5)
    assert weights.networks["generator"]["fmap_base"] == 64 and "to_rgb.1.weight" not in weights.state["G_ema"]


@pytest.mark.parametrize(
    "changes",
    [
        {"modelTopology": {"node": []}},
        {"modelTopology": 3},
        {"weightsManifest": [{"paths": ["../../etc/passwd"], "weights": []}]},
        {"weightsManifest": [{"paths": [], "weights": [{"name": "k", "shape": [2**40], "dtype": "float32"}]}]},
        {"weightsManifest": [{"paths": [], "weights": [{"name": "k", "shape": [-1], "dtype": "float32"}]}]},
        {"weightsManifest": [{"paths": [], "weights": [{"name": "k", "shape": [1], "dtype": "object"}]}]},
    ],
)
def test_unsupported_or_hostile_graphs_are_rejected(small, tmp_path, changes):
    with pytest.raises(WeightsError, match=r"model\.json: ") as error:
        read_weights(write_tfjs(tmp_path / "model", small, **changes))
    assert "\n" not in str(error.value)


def test_huge_and_truncated_json_is_rejected(small, tmp_path):
    folder = write_tfjs(tmp_path / "model", small)
    whole = (folder / "model.json").read_bytes()
    for content, message in ((whole[:-9], "damaged"), (b"[" * 10**6, "damaged")):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(WeightsError, match=message):
            read_weights(folder)
    with (folder / "model.json").open("wb") as file:
        file.truncate(2**40)  # sparse: takes no disk space
    with pytest.raises(WeightsError, match="larger than 64 MiB"):
        read_weights(folder)
    (folder / "model.json").write_bytes(whole)
    (folder / "shard2.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="damaged"):
        read_weights(folder)


# pro_gan_pytorch 3.4, compared with the package itself


@pytest.fixture(scope="module")
def theirs():
    networks = pytest.importorskip("pro_gan_pytorch.networks", reason="pro-gan-pth==3.4 is not installed")
    torch.manual_seed(1)
    pair = networks.Generator(depth=4, use_eql=True), networks.Discriminator(depth=4)
    for network in pair:
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter)
    return pair


def save_theirs(path, generator, discriminator):
    torch.save(
        {
            "generator": generator.get_save_info(),
            "discriminator": discriminator.get_save_info(),
            "gen_optim": torch.optim.Adam(generator.parameters()).state_dict(),
            "shadow_generator": generator.get_save_info(),
        },
        path,
    )
    return path


def test_pro_gan_pytorch_networks_compute_the_same(theirs, tmp_path, monkeypatch):
    from pro_gan_pytorch.custom_layers import EqualizedConvTranspose2d

    # pro_gan_pytorch calls a private torch function with arguments from before 2.0. It would compute no padding here.
    monkeypatch.setattr(EqualizedConvTranspose2d, "_output_padding", lambda *_: [0, 0])
    generator, discriminator = theirs
    weights = read_weights(save_theirs(tmp_path / "depth_3_epoch_7.bin", generator, discriminator))
    ours, latents = build(weights), torch.randn(3, 512)
    assert weights.resolution == 8 and weights.networks["generator"]["resolution"] == 16
    for depth, alpha in ((4, 1.0), (4, 0.25), (3, 1.0), (2, 1.0)):
        expected = generator(latents, depth=depth, alpha=alpha).detach().double()
        assert torch.allclose(ours(latents.double(), None, 2**depth, alpha), expected, atol=2e-4)
    images = torch.randn(8, 3, 16, 16)
    scores = build(weights, "discriminator", "D")(images.double(), alpha=0.25)[0]
    assert torch.allclose(scores, discriminator(images, 4, 0.25).detach().double(), atol=2e-4)


def test_pro_gan_pytorch_without_equalized_learning_rate_or_with_other_discriminators(theirs, tmp_path):
    networks = pytest.importorskip("pro_gan_pytorch.networks")
    plain = networks.Generator(depth=3, use_eql=False)
    conditional = networks.Discriminator(depth=3, num_classes=5, use_eql=False)
    weights = read_weights(save_theirs(tmp_path / "a.bin", plain, conditional))
    latents = torch.randn(2, 512)
    assert torch.allclose(build(weights)(latents.double()), plain(latents).detach().double(), atol=2e-4)
    assert weights.resolution == 8 and "D" not in weights.state and "projection" in weights.notes[0]


def test_damaged_pro_gan_pytorch_files_are_rejected(theirs, tmp_path):
    path = save_theirs(tmp_path / "a.bin", *theirs)
    content = torch.load(path, weights_only=True)
    del content["shadow_generator"]["state_dict"]["layers.1.conv_2.bias"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"a\.bin: missing layer layers\.1\.conv_2"):
        read_weights(path)
    content["shadow_generator"]["state_dict"]["layers.1.conv_2.bias"] = torch.zeros(1).expand(2**40)
    torch.save(content, path)
    with pytest.raises(WeightsError, match="a tensor has more numbers than the file holds"):
        read_weights(path)
    content["shadow_generator"]["state_dict"]["layers.1.conv_2.bias"] = torch.zeros(1)
    content["shadow_generator"]["conf"]["depth"] = 50
    torch.save(content, path)
    with pytest.raises(WeightsError, match="depth is 50"):
        read_weights(path)


# pytorch_GAN_zoo, compared with its computations written out here (it is not on the package index)


def make_zoo_state(maps, latent, seed):
    """Return random state dicts of a generator and a discriminator, with pytorch_GAN_zoo's names."""
    rng = torch.Generator().manual_seed(seed)
    shapes_g = {"formatLayer": (16 * maps[0], latent), "groupScale0.0": (maps[0], maps[0], 3, 3)}
    shapes_d = {
        "decisionLayer": (1, maps[0]),
        "groupScaleZero.0": (maps[0], maps[0] + 1, 3, 3),
        "groupScaleZero.1": (maps[0], 16 * maps[0]),
    }
    for i, (below, here) in enumerate(pairwise(maps)):
        shapes_g |= {f"scaleLayers.{i}.0": (here, below, 3, 3), f"scaleLayers.{i}.1": (here, here, 3, 3)}
        shapes_d |= {f"scaleLayers.{i}.0": (here, here, 3, 3), f"scaleLayers.{i}.1": (below, here, 3, 3)}
    for i, here in enumerate(maps):
        shapes_g[f"toRGBLayers.{i}"], shapes_d[f"fromRGBLayers.{i}"] = (3, here, 1, 1), (here, 3, 1, 1)
    return [
        {
            name: torch.randn(size, generator=rng)
            for layer, shape in shapes.items()
            for name, size in ((f"{layer}.weight", shape), (f"{layer}.bias", shape[:1]))
        }
        for shapes in (shapes_g, shapes_d)
    ]


class Zoo:
    """pytorch_GAN_zoo's layer: the product and its bias are both scaled by sqrt(2 / fan_in)."""

    def __init__(self, state):
        self.state = state

    def layer(self, name, x):
        weight, bias = self.state[f"{name}.weight"].double(), self.state[f"{name}.bias"].double()
        product = (
            F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2) if weight.ndim == 4 else F.linear(x, weight, bias)
        )
        return product * math.sqrt(2 / weight[0].numel())

    def activate(self, name, x):
        return F.leaky_relu(self.layer(name, x), 0.2)

    def normalize(self, x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    def generate(self, x, scales, theirs_alpha):
        x = self.activate("formatLayer", self.normalize(x))
        x = y = self.normalize(self.activate("groupScale0.0", self.normalize(x.view(len(x), -1, 4, 4))))
        for i in range(scales):
            y, x = x, F.interpolate(x, scale_factor=2)
            for j in (0, 1):
                x = self.normalize(self.activate(f"scaleLayers.{i}.{j}", x))
        lower = F.interpolate(self.layer(f"toRGBLayers.{scales - 1}", y), scale_factor=2)
        return theirs_alpha * lower + (1 - theirs_alpha) * self.layer(f"toRGBLayers.{scales}", x)

    def score(self, images, scales):
        x = self.activate(f"fromRGBLayers.{scales}", images)
        for i in reversed(range(scales)):
            x = F.avg_pool2d(self.activate(f"scaleLayers.{i}.1", self.activate(f"scaleLayers.{i}.0", x)), 2)
        deviation = (x.var(0) + 1e-8).sqrt().mean()
        x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
        x = self.activate("groupScaleZero.1", self.activate("groupScaleZero.0", x).flatten(1))
        return self.layer("decisionLayer", x)[:, 0]


class BaseConfig:
    pass


def write_zoo_file(path, monkeypatch, legacy=False, **options):
    import sys
    import types

    module = types.ModuleType("models.utils.config")
    module.BaseConfig, BaseConfig.__module__ = BaseConfig, "models.utils.config"
    for name in ("models", "models.utils"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "models.utils.config", module)
    config = BaseConfig()
    vars(config).update({"perChannelNormalization": True, "leakyReluLeak": 0.2, "alpha": 0.0} | options)
    (netG, netD), (avgG, _) = (make_zoo_state([16, 16, 8], 24, seed) for seed in (1, 2))
    content = {"config": config, "netG": netG, "netD": netD, "avgG": avgG}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return Zoo(avgG), Zoo(netD)


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_gan_zoo_networks_compute_the_same(tmp_path, monkeypatch, legacy):
    generator, discriminator = write_zoo_file(tmp_path / "zoo_s2_i100.pt", monkeypatch, legacy, alpha=0.25)
    weights = read_weights(tmp_path / "zoo_s2_i100.pt")
    assert (weights.resolution, weights.alpha) == (16, 0.75)
    latents = torch.randn(3, 24).double()
    expected = generator.generate(latents, 2, 0.25)
    assert torch.allclose(build(weights)(latents, alpha=weights.alpha), expected, atol=1e-5)
    images = torch.randn(4, 3, 16, 16).double()
    assert torch.allclose(build(weights, "discriminator", "D")(images)[0], discriminator.score(images, 2), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"leakyReluLeak": 0.1}, {"perChannelNormalization": False}, {"categoryVectorDim": 3}]
)
def test_unsupported_pytorch_gan_zoo_networks_are_rejected(tmp_path, monkeypatch, options):
    write_zoo_file(tmp_path / "zoo.pt", monkeypatch, **options)
    with pytest.raises(WeightsError, match=r"only .* is supported|attributes, which is not supported"):
        read_weights(tmp_path / "zoo.pt")


# Hostile and unsupported files


class RunsOnLoad:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_hostile_and_unsupported_files_are_rejected(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"generator": RunsOnLoad()}, "torch.bin")
    torch.save({"generator": RunsOnLoad()}, "old.bin", _use_new_zipfile_serialization=False)
    Path("official.pkl").write_bytes(pickle.dumps((RunsOnLoad(), RunsOnLoad(), RunsOnLoad())))
    torch.save({"generator": {"conf": {}}}, "empty.bin")
    torch.save([1], "list.bin")
    Path("three.pkl").write_bytes(pickle.dumps((1, 2, 3)))
    Path("text.pkl").write_text("hello")
    Path("nothing.pkl").write_bytes(b"")
    with zipfile.ZipFile("bomb.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(10**7))
    before = sorted(os.listdir())
    for name in before:
        with pytest.raises(WeightsError, match=rf"^{name}: \w") as error:
            read_weights(Path(name))
        assert "\n" not in str(error.value), error.value
    assert sorted(os.listdir()) == before
    with pytest.raises(OSError):
        read_weights(Path("not-there.pkl"))


def test_checkpoints_of_this_code_need_no_import(tmp_path):
    torch.save({"networks": {}, "state": {}}, tmp_path / "latest.pt")
    with pytest.raises(WeightsError, match=r"latest\.pt: already a checkpoint of this code; use it as it is"):
        read_weights(tmp_path / "latest.pt")
