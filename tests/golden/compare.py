"""Compute the errors of this project's networks, losses and gradients against the recorded official outputs.

The arrays were recorded from the paper authors' own code; set PGGAN_GOLDEN to use another folder of them.
"""

import json
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from pggan.interop import from_official
from pggan.interop.official import from_official_layout, map_layers
from pggan.networks.layers import downscale, upscale
from pggan.training.losses import WGANGP

FOLDER = Path(os.environ.get("PGGAN_GOLDEN", Path(__file__).parent))
# recorded fades and stages per network; a lod counts the resolutions that are still missing
LEVELS_OF_DETAIL = {"official_rgb32": 7, "official_gray16_labels": 5}


@lru_cache
def load_golden(name):
    arrays = load_arrays(name)
    meta = json.loads(bytes(arrays.pop("meta_json")))
    return meta, arrays


def load_arrays(name):
    """Return the arrays of a recording without metadata."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        return dict(archive)


def select_prefix(arrays, prefix):
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def compute_relative_error(ours, official, floor=1e-12):
    """Return the largest difference, divided by the largest official value or by `floor`, whichever is larger.

    The official arrays are float32. `floor` is for sums that cancel to less than float32's rounding error.
    """
    ours, official = (x.detach().cpu() if isinstance(x, torch.Tensor) else x for x in (ours, official))
    ours, official = np.asarray(ours, np.float64), np.asarray(official, np.float64)
    return np.abs(ours - official).max() / max(np.abs(official).max(), floor)


class Stage:
    """This project's networks with the official weights, at one of the recorded levels of detail.

    Its methods named `..._error` return relative errors against the official outputs.
    """

    def __init__(self, meta, arrays, index, dtype=torch.float64, device="cpu"):
        self.G = from_official(select_prefix(arrays, "G/"), "G", **meta).to(device, dtype)
        self.D = from_official(select_prefix(arrays, "D/"), "D", **meta).to(device, dtype)
        lod = float(arrays["lods"][index])
        self.levels = int(lod)
        self.resolution = meta["resolution"] >> self.levels
        alpha = 1 - (lod - self.levels)
        self.alpha = 1 if alpha == 1 else torch.tensor(alpha, dtype=dtype, device=device)
        self.golden = select_prefix(arrays, f"lod{index}/")
        names = ("latents", "labels", "reals", "mixing")
        tensors = {name: torch.tensor(arrays[name], dtype=dtype, device=device) for name in names}
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

    def images_error(self):
        images = self.generate()
        for _ in range(self.levels):
            images = upscale(images)
        return compute_relative_error(images, self.golden["fake"])

    def scores_error(self):
        fakes = self.generate()
        mixed = torch.lerp(self.reals, fakes, self.mixing)
        images = {"real": self.reals, "fake": fakes, "mixed": mixed}
        errors = [
            compute_relative_error(self.critic(x)[0], self.golden[f"{name}_scores"].ravel())
            for name, x in images.items()
        ]
        if self.labels is not None:
            errors.append(compute_relative_error(self.critic(self.reals)[1], self.golden["real_label_logits"]))
        return max(errors)

    def gradient_norms_error(self):
        """Return the error of the norms that the penalty uses, of gradients by full-resolution pixels."""
        mixed = torch.lerp(self.reals, self.generate().detach(), self.mixing)
        return compute_relative_error(self.loss.gradient_norms(self.critic, mixed), self.golden["mixed_grad_norms"])

    def losses_error(self):
        losses = {"d_loss": self.discriminator_loss(), "g_loss": self.generator_loss()}
        return max(compute_relative_error(terms[name], self.golden[name]) for name, terms in losses.items())

    def d_gradients_error(self):
        return compute_gradients_error(
            self.D, self.discriminator_loss()["d_loss"], select_prefix(self.golden, "dgrad/")
        )

    def g_gradients_error(self):
        return compute_gradients_error(self.G, self.generator_loss()["g_loss"], select_prefix(self.golden, "ggrad/"))


ERRORS = ("images", "scores", "gradient_norms", "losses", "d_gradients", "g_gradients")  # Stage's methods


def compute_gradients_error(network, loss, official):
    """Return the largest relative error of any parameter's gradient; every official gradient must have one of ours."""
    network.zero_grad()
    loss.backward(inputs=list(network.parameters()))
    errors = []
    for layer, module in map_layers(network).items():
        for name, parameter in module.named_parameters():
            golden = torch.tensor(official.pop(f"{layer}/{name}"))
            golden = from_official_layout(f"{layer}/{name}", golden, parameter.shape)
            if parameter.grad is None:
                assert not golden.any(), f"{layer}/{name} is not trained here but is in the official code"
            else:
                errors.append(compute_relative_error(parameter.grad, golden, floor=1e-3))
    assert len(errors) >= 6 and not official
    return max(errors)
