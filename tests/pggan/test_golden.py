"""Networks and losses against arrays recorded from the paper authors' own code.

The arrays are in tests/golden; PGGAN_GOLDEN names another folder.
"""

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from pggan.interop import from_official
from pggan.interop.official import from_official_layout, map_layers
from pggan.networks.layers import downscale, upscale
from pggan.networks.operations import leaky_relu
from pggan.networks.progressive import GeneratorBlock
from pggan.training.losses import WGANGP

FOLDER = Path(os.environ.get("PGGAN_GOLDEN", Path(__file__).parents[1] / "golden"))
# recorded fades and stages per network; a lod counts the resolutions that are still missing
LEVELS_OF_DETAIL = {"official_rgb32": 7, "official_gray16_labels": 5}


@lru_cache
def golden(name):
    with np.load(FOLDER / f"{name}.npz") as archive:
        arrays = dict(archive)
    meta = json.loads(bytes(arrays.pop("meta_json")))
    return meta, arrays


def part(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def relative_error(ours, official, floor=1e-12):
    """Return the largest difference, divided by the largest official value or by `floor`, whichever is larger.

    The official arrays are float32. `floor` is for sums that cancel to less than float32's rounding error.
    """
    ours, official = np.asarray(ours, np.float64), np.asarray(official, np.float64)
    return np.abs(ours - official).max() / max(np.abs(official).max(), floor)


class Stage:
    """This project's networks in float64 with the official weights, at one of the recorded levels of detail."""

    def __init__(self, meta, arrays, index, dtype=torch.float64):
        self.G = from_official(part(arrays, "G/"), "G", **meta).to(dtype)
        self.D = from_official(part(arrays, "D/"), "D", **meta).to(dtype)
        lod = float(arrays["lods"][index])
        self.levels = int(lod)
        self.resolution = meta["resolution"] >> self.levels
        alpha = 1 - (lod - self.levels)
        self.alpha = 1 if alpha == 1 else torch.tensor(alpha, dtype=dtype)
        self.golden = part(arrays, f"lod{index}/")
        tensors = {k: torch.tensor(arrays[k], dtype=dtype) for k in ("latents", "labels", "reals", "mixing")}
        self.latents, self.mixing = tensors["latents"], tensors["mixing"]
        self.onehot = tensors["labels"] if meta["label_size"] else None
        self.labels = self.onehot.argmax(1) if meta["label_size"] else None
        reals = tensors["reals"]
        for _ in range(self.levels):
            reals = downscale(reals)
        self.reals = reals
        self.loss = WGANGP(
            meta["resolution"], meta["wgan_lambda"], meta["wgan_target"], meta["wgan_epsilon"], meta["cond_weight"]
        )

    def generate(self):
        return self.G(self.latents, self.onehot, resolution=self.resolution, alpha=self.alpha)

    def critic(self, images, batches=1):
        return self.D(images, resolution=self.resolution, alpha=self.alpha, batches=batches)

    def discriminator_loss(self):
        return self.loss.discriminator_loss(self.critic, self.reals, self.generate().detach(), self.mixing, self.labels)

    def generator_loss(self):
        return self.loss.generator_loss(self.critic, self.generate(), self.labels)


@pytest.fixture(
    scope="module",
    params=[(name, i) for name, count in LEVELS_OF_DETAIL.items() for i in range(count)],
    ids=lambda p: f"{p[0]}-lod{p[1]}",
)
def stage(request):
    name, index = request.param
    meta, arrays = golden(name)
    assert len(arrays["lods"]) == LEVELS_OF_DETAIL[name]
    return Stage(meta, arrays, index)


def test_images(stage):
    images = stage.generate()
    for _ in range(stage.levels):
        images = upscale(images)
    assert relative_error(images.detach(), stage.golden["fake"]) < 1e-5


def test_scores_and_label_logits(stage):
    fakes = stage.generate()
    mixed = torch.lerp(stage.reals, fakes, stage.mixing)
    for name, images in (("real", stage.reals), ("fake", fakes), ("mixed", mixed)):
        scores, logits = stage.critic(images)
        assert relative_error(scores.detach(), stage.golden[f"{name}_scores"].ravel()) < 1e-5
    if stage.labels is not None:
        logits = stage.critic(stage.reals)[1]
        assert relative_error(logits.detach(), stage.golden["real_label_logits"]) < 1e-5


def test_gradient_norms_are_by_full_resolution_pixels(stage):
    mixed = torch.lerp(stage.reals, stage.generate().detach(), stage.mixing)
    norms = stage.loss.gradient_norms(stage.critic, mixed)
    assert relative_error(norms.detach(), stage.golden["mixed_grad_norms"]) < 1e-5


def test_losses(stage):
    assert relative_error(stage.discriminator_loss()["d_loss"].item(), stage.golden["d_loss"]) < 1e-5
    assert relative_error(stage.generator_loss()["g_loss"].item(), stage.golden["g_loss"]) < 1e-5


def check_gradients(network, loss, official):
    network.zero_grad()
    loss.backward(inputs=list(network.parameters()))
    checked = 0
    for layer, module in map_layers(network).items():
        for name, parameter in module.named_parameters():
            golden = torch.tensor(official.pop(f"{layer}/{name}"))
            golden = from_official_layout(f"{layer}/{name}", golden, parameter.shape)
            if parameter.grad is None:
                assert not golden.any(), f"{layer}/{name} is not trained here but is in the official code"
            else:
                assert relative_error(parameter.grad, golden, floor=1e-3) < 1e-4, f"{layer}/{name}"
                checked += 1
    assert checked >= 6 and not official


def test_discriminator_gradients(stage):
    check_gradients(stage.D, stage.discriminator_loss()["d_loss"], part(stage.golden, "dgrad/"))


def test_generator_gradients(stage):
    check_gradients(stage.G, stage.generator_loss()["g_loss"], part(stage.golden, "ggrad/"))


# Classic mistakes, made on purpose: the comparisons above must notice each of them.


def planted(index=4):  # 4: a fade below the full resolution
    meta, arrays = golden("official_rgb32")
    return Stage(meta, arrays, index)


def images_error(stage):
    images = stage.generate().detach()
    for _ in range(stage.levels):
        images = upscale(images)
    return relative_error(images, stage.golden["fake"])


def test_a_wrong_gain_is_noticed():
    stage = planted()
    stage.G.to_rgb[2].scale *= 2**0.5
    assert images_error(stage) > 0.01


def test_pixel_norm_before_the_activation_is_noticed(monkeypatch):
    def wrong(self, x):
        x = leaky_relu(self.norm(self.up(x)))
        return leaky_relu(self.norm(self.conv(x)))

    monkeypatch.setattr(GeneratorBlock, "forward", wrong)
    assert images_error(planted()) > 0.01


def test_a_penalty_by_native_pixels_is_noticed():
    stage = planted()
    stage.loss = WGANGP(full_resolution=stage.resolution)
    mixed = torch.lerp(stage.reals, stage.generate().detach(), stage.mixing)
    norms = stage.loss.gradient_norms(stage.critic, mixed)
    assert relative_error(norms.detach(), stage.golden["mixed_grad_norms"]) > 0.5
    assert relative_error(stage.discriminator_loss()["d_loss"].item(), stage.golden["d_loss"]) > 1e-3
