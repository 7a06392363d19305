"""The state of a run: networks, moving average, optimizers, images seen, and the few decisions that were made."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..networks import build
from ..networks.progressive import count_feature_maps
from .power_ema import STDS

PURPOSES = (
    "initial weights",
    "d latents",
    "g latents",
    "mixing",
    "mirror",
    "grid",
    "evaluation",
    "evaluated reals",
    "evaluated labels",
    "held out",
    "augmented reals",
    "augmented fakes",
    "augmented g fakes",
    "augmented held out",
    "mirrored reals",
)


def random_generator(seed: int, images: int, purpose: str) -> np.random.Generator:
    """Return a generator of random numbers that is a function of the seed, the images seen and the purpose alone."""
    return np.random.default_rng((seed, images, PURPOSES.index(purpose)))


def draw_latents(seed: int, images: int, purpose: str, count: int, size: int) -> Tensor:
    """Return latents [count, size], standard normal, float32."""
    return torch.from_numpy(random_generator(seed, images, purpose).standard_normal((count, size), dtype=np.float32))


def network_arguments(config: TrainConfig, label_size: int) -> dict[str, dict[str, Any]]:
    """Return the arguments with which `networks.build` makes the generator and the discriminator."""
    maps = {"fmap_base": config.fmap_base, "fmap_decay": config.fmap_decay, "fmap_max": config.fmap_max}
    shared = {
        "arch": config.arch,
        "resolution": config.resolution,
        "channels": config.channels,
        "label_size": label_size,
    }
    first = count_feature_maps(0, config.fmap_base, config.fmap_decay, config.fmap_max)
    latent = {"latent_size": config.latent_size or first}
    if config.arch in ("mlp", "hybrid"):
        return {
            "generator": shared | {"hidden": list(config.hidden or ())} | latent,
            "discriminator": shared | {"hidden": list(config.d_hidden or ())},
        }
    if config.arch in ("dcgan", "r3gan"):
        relu = {"activation": "relu"} if config.arch == "dcgan" else {}
        return {"generator": shared | maps | latent | relu, "discriminator": shared | maps}
    paper = maps | {"fused_scale": config.fused_scale, "equalized_lr": config.equalized_lr}
    group = config.mbstd_group if config.minibatch_stddev else 0
    return {
        "generator": shared | paper | {"pixel_norm": config.pixel_norm, "first_layer": config.first_layer} | latent,
        "discriminator": shared | paper | {"mbstd_group": group},
    }


class TrainState:
    """Networks, EMA, optimizers and the images seen, on one device.

    Attributes:
        images: real images seen by the discriminator.
        previous: `images` at the previous schedule update; the images in (previous, images] were trained on last.
        start: images seen when the run began: 0, or where --resume put it.
        averaged: images seen at the last update of G, and so of `power_averages`.
        sums: sums of logged terms since the last log line. counts: number of values in each sum.
        augment_p: probability of each augmentation in [0, 1], on the device; --augment ada adapts it.
        augment_signal: [2], moving averages of numerator and denominator of the signal that steers augment_p.
        skipped_in_a_row: consecutive updates skipped for non-finite gradients, [D, G], on the device.
        seconds: training time at each resolution. elapsed: seconds of the whole run, all of its sessions together.
        lr_factor: factor on all learning rates; below 1 after a rollback.
        rollbacks: [from, to] in images seen, one per rollback.
        stage_ends: resolution -> images seen when adaptive growth ended that stage, or --budget ends the last one.
        power_averages: std -> power-function average of G, {} without --power-ema; see power_ema.py.
        version: an object that is replaced whenever tensors of the state are replaced instead of changed in place.
    """

    def __init__(self, config: TrainConfig, label_size: int, device: torch.device):
        self.arguments = network_arguments(config, label_size)
        seed = int(random_generator(config.seed, 0, "initial weights").integers(2**62))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.G, self.D = (build(kind, arguments) for kind, arguments in self.arguments.items())
        self.G, self.D = (n.to(device, memory_format=torch.channels_last) for n in (self.G, self.D))
        self.G_ema = copy.deepcopy(self.G).requires_grad_(False).eval()
        self.power_averages = {f"{std:g}": copy.deepcopy(self.G_ema) for std in (STDS if config.power_ema else ())}
        self.g_optimizer, self.d_optimizer = (make_optimizer(config, n) for n in (self.G, self.D))
        self.device = device
        self.images = self.previous = self.start = self.averaged = 0
        self.skipped_in_a_row = torch.zeros(2, device=device)
        self.augment_p = torch.zeros((), device=device)
        self.augment_signal = torch.zeros(2, device=device)
        self.seconds: dict[int, float] = {}
        self.elapsed = 0.0
        self.lr_factor = 1.0
        self.rollbacks: list[list[int]] = []
        self.stage_ends: dict[int, int] = {}
        self.version = object()
        self.clear_sums()

    def clear_sums(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}

    def accumulate(self, values: dict[str, Tensor]) -> None:
        """Add scalars on the device to `sums`, in one launch."""
        for name in values:
            if name not in self.sums:
                self.sums[name] = torch.zeros_like(values[name])
            self.counts[name] = self.counts.get(name, 0) + 1
        torch._foreach_add_([self.sums[name] for name in values], list(values.values()))

    def average_sums(self) -> dict[str, float]:
        """Return the mean of each term since the last log line; of "skipped", the sum."""
        values = {name: value.item() / self.counts[name] for name, value in self.sums.items()}
        return values | {"skipped": round(values["skipped"] * self.counts["skipped"])}

    def reset_optimizers(self) -> None:
        self.g_optimizer.state.clear()
        self.d_optimizer.state.clear()
        self.version = object()

    MODULES = ("G", "D", "G_ema", "g_optimizer", "d_optimizer")
    PLAIN = (
        "images",
        "previous",
        "start",
        "averaged",
        "sums",
        "counts",
        "augment_p",
        "augment_signal",
        "skipped_in_a_row",
        "seconds",
        "elapsed",
        "stage_ends",
        "lr_factor",
        "rollbacks",
    )

    def state_dict(self) -> dict[str, Any]:
        averages = {std: average.state_dict() for std, average in self.power_averages.items()}
        return (
            {name: getattr(self, name).state_dict() for name in self.MODULES}
            | {name: getattr(self, name) for name in self.PLAIN}
            | ({"power_averages": averages} if averages else {})
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a saved state. Raises KeyError, TypeError, ValueError or RuntimeError if it does not fit."""
        for name in ("G", "D", "G_ema"):
            getattr(self, name).load_state_dict(state[name])
        for std, average in self.power_averages.items():
            average.load_state_dict(state["power_averages"][std])
        for name in ("g_optimizer", "d_optimizer"):
            load_moments(getattr(self, name), state[name]["state"])
        for name in self.PLAIN:
            if name in state:  # older checkpoints have no augment_p, augment_signal, lr_factor, start, elapsed, ...
                check_type(name, state[name], getattr(self, name))
                setattr(self, name, to_device(state[name], self.device))
        if "averaged" not in state:  # written by an earlier version
            self.averaged = self.images
        if "counts" not in state:  # written by an earlier version, which counted steps instead
            self.counts = dict.fromkeys(self.sums, state["steps"])
        self.version = object()


def make_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Return Adam (Karras et al. 2018, appendix A.1), RMSprop (Arjovsky et al. 2017) or plain SGD.

    `set_lr` sets the learning rate before every step. For Adam on a GPU it is a tensor there, so that a CUDA graph of
    the step reads its value of the moment.
    """
    parameters = list(network.parameters())
    device = parameters[0].device
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=1e-3)
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3, fused=True)
    on_gpu, betas = device.type == "cuda", (config.adam_beta1, config.adam_beta2)
    adam = torch.optim.Adam(parameters, lr=1e-3, betas=betas, eps=1e-8, fused=True, capturable=on_gpu)
    if on_gpu:
        adam.param_groups[0]["lr"] = torch.tensor(1e-3, device=device)
    return adam


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters; if it is a tensor, in place and without waiting for its device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def set_beta2(optimizer: torch.optim.Optimizer, burn_in: float) -> None:
    """Set Adam's beta2: 1 - beta2 begins at 10 times its value, 0.9 to 0.99 in R3GAN's code; others have none."""
    if "betas" in optimizer.defaults:
        beta1, beta2 = optimizer.defaults["betas"]
        for group in optimizer.param_groups:
            group["betas"] = beta1, max(1 - (1 - beta2) * (1 + 9 * burn_in), 0.0) if burn_in else beta2


MOMENTS = {
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("step", "square_avg"),
    torch.optim.SGD: (),
}


def load_moments(optimizer: torch.optim.Optimizer, moments: dict[int, dict[str, Tensor]]) -> None:
    """Load an optimizer's moments after checking their shapes; hyperparameters come from the options.

    Moments get their parameter's strides: fused optimizers go through both in memory order, and would mix up the
    elements of a file with others.
    """
    parameters, names = optimizer.param_groups[0]["params"], MOMENTS[type(optimizer)]
    for index, values in moments.items():
        shapes = {name: torch.Size(()) if name == "step" else parameters[index].shape for name in names}
        if {name: value.shape for name, value in values.items() if value is not None} != shapes:
            raise ValueError(f"the optimizer's moments of parameter {index} have the wrong shapes")
    moments = {
        index: {
            name: value if value is None or name == "step" else torch.empty_like(parameters[index]).copy_(value)
            for name, value in values.items()
        }
        for index, values in moments.items()
    }
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def check_type(name: str, value: Any, current: Any) -> None:
    """Raise ValueError if a value from a checkpoint has a different type or shape than the run's own."""
    fits = type(value) is type(current)
    if isinstance(current, Tensor):
        fits = fits and value.shape == current.shape
    elif isinstance(current, int):
        fits = fits and 0 <= value < 10**12
    elif isinstance(current, dict):
        numbers = Tensor if name == "sums" else (int, float)
        fits = fits and all(isinstance(v, numbers) and getattr(v, "ndim", 0) == 0 for v in value.values())
    if not fits:
        raise ValueError(f"{name} has a type or shape that no run saves")


def to_device(value: Any, device: torch.device) -> Any:
    """Return a tensor, or the tensors in nested dicts, on a device; other values unchanged."""
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
