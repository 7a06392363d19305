"""One discriminator update, one generator update, the EMA: the hot path; nothing is read back from the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..networks import one_hot
from ..networks.layers import Equalized, downscale, upscale
from .augment import Augmentation, overfitting
from .growth import Phase
from .losses import Loss, objective
from .state import TrainState, draws, latents


@dataclass(frozen=True)
class Batch:
    """Real images as they come from the pyramid, uint8 [N, C, r, r], with class indices [N] where there are classes."""

    images: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Stepper:
    """Carries out steps on a state under one loss.

    Args:
        seed: of the latents, mixing factors and mirror flips. mirror: flip half of the reals.
        ema_decay: per step. bf16: run convolutions and products in bfloat16.
        augment: of all that the discriminator sees.
        n_critic: steps of D to one of G. clip: bound on D's weights, or None.
    """

    loss: Loss
    seed: int
    mirror: bool
    ema_decay: float
    bf16: bool = False
    augment: Augmentation = field(default_factory=Augmentation)
    n_critic: int = 1
    clip: float | None = None

    @classmethod
    def of(cls, config: TrainConfig, bf16: bool, augment: Augmentation | None = None) -> Stepper:
        """The stepper that the options name."""
        clip = config.clip if config.penalty == "clip" else None
        return cls(
            objective(config), config.seed, config.mirror, config.ema_decay, bf16, augment or Augmentation(),
            config.n_critic, clip,
        )  # fmt: skip

    def step(self, state: TrainState, batch: Batch, phase: Phase, held_out: Tensor | None = None) -> None:
        """Train D on reals and fakes, then every n_critic-th time G with fresh latents and its EMA; count the reals.

        held_out: real images that are never trained on, like the batch's, to see whether D knows its own by heart.
        """
        alpha = torch.tensor(phase.alpha, device=state.device) if phase.fading else 1.0
        stage = {"resolution": phase.resolution, "alpha": alpha}
        reals = self.prepare(batch.images.to(state.device, non_blocking=True), state.images, alpha)
        labels = None if batch.labels is None else batch.labels.to(state.device, non_blocking=True)
        generate = partial(self.fakes, state, labels=labels, **stage)
        critic = partial(state.D, **stage)
        with torch.autocast(state.device.type, torch.bfloat16, enabled=self.bf16):
            held_out_score = None if held_out is None else self.score(state, held_out, critic, alpha)
            reals = self.augmented(state, reals, "augmented reals")
            with torch.no_grad():
                fakes = self.augmented(state, generate("d latents", len(reals)), "augmented fakes")
            mixing = draws(self.seed, state.images, "mixing").random((len(reals), 1, 1, 1), dtype=np.float32)
            mixing = torch.from_numpy(mixing).to(state.device, non_blocking=True)
            d_terms = self.loss.discriminator(critic, reals, fakes, mixing, labels)
        d_lr, g_lr = phase.lrs
        d_skipped = update(state.D, state.d_optimizer, d_terms["d_loss"], d_lr)
        if self.clip is not None:
            clip_weights(state.D, self.clip)
        g_terms, g_skipped = {}, torch.zeros_like(d_skipped)
        if self.trains_generator(state.images, len(reals)):
            with torch.autocast(state.device.type, torch.bfloat16, enabled=self.bf16):
                fakes = self.augmented(state, generate("g latents", len(reals)), "augmented g fakes")
                g_terms = self.loss.generator(critic, fakes, labels, reals)
            g_skipped = update(state.G, state.g_optimizer, g_terms["g_loss"], g_lr)
            update_ema(state.G_ema, state.G, self.ema_decay)

        skipped = torch.stack([d_skipped, g_skipped])
        in_a_row = (state.skipped_in_a_row + skipped) * skipped
        state.skipped_in_a_row = in_a_row if g_terms else torch.stack([in_a_row[0], state.skipped_in_a_row[1]])
        state.add({k: v.detach() for k, v in (d_terms | g_terms).items()} | {"skipped": skipped.sum()})
        if held_out_score is not None:
            scores = {"seen": d_terms["real_score"], "held_out": held_out_score, "faked": d_terms["fake_score"]}
            state.add({f"{name}_score": score for name, score in scores.items()})
            state.augment_p = self.augment.moved(state.augment_p, overfitting(*scores.values()), len(reals))
        state.images += len(reals)

    def trains_generator(self, images: int, batch_size: int) -> bool:
        """Whether the step after so many images ends with one of G: every n_critic-th, known from the images alone."""
        return images // batch_size % self.n_critic == self.n_critic - 1

    def augmented(self, state: TrainState, images: Tensor, purpose: str) -> Tensor:
        return self.augment(images, state.augment_p, draws(self.seed, state.images, purpose))

    @torch.no_grad()
    def score(self, state: TrainState, images: Tensor, critic: Callable, alpha: float | Tensor) -> Tensor:
        """D's mean score of reals it was never trained on, shown to it as the others are."""
        reals = self.prepare(images.to(state.device, non_blocking=True), state.images, alpha)
        return critic(self.augmented(state, reals, "augmented held out"))[0].mean()

    def prepare(self, images: Tensor, seen: int, alpha: float | Tensor) -> Tensor:
        """uint8 [N, C, r, r] -> float in [-1, 1], half of them mirrored, and faded like the fakes (official code)."""
        if self.mirror:  # of bytes, which are quicker to move than floats
            flips = torch.from_numpy(draws(self.seed, seen, "mirror").random(len(images)) < 0.5).to(images.device)
            images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
        reals = images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        return fade(reals, alpha)

    def fakes(self, state: TrainState, purpose: str, count: int, labels: Tensor | None, **stage) -> Tensor:
        z = latents(self.seed, state.images, purpose, count, state.G.latent_size)
        return state.G(z.to(state.device, non_blocking=True), one_hot(labels, state.G.label_size), **stage)


def fade(reals: Tensor, alpha: float | Tensor) -> Tensor:
    """Reals [N, C, r, r] mixed with their own lower resolution as the fakes are (official code)."""
    return torch.lerp(upscale(downscale(reals)), reals, alpha) if isinstance(alpha, Tensor) else reals


def update(network: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> Tensor:
    """One optimizer step, left out as a whole where a gradient is not finite. Returns 1.0 where it was left out."""
    parameters = list(network.parameters())
    optimizer.zero_grad()
    loss.backward(inputs=parameters)
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    skipped = 1 - (norm.isfinite() & loss.isfinite()).float()
    for group in optimizer.param_groups:
        group["lr"] = lr
    if optimizer.defaults.get("fused"):
        optimizer.grad_scale, optimizer.found_inf = None, skipped  # the fused kernel reads it on the device
        optimizer.step()
    elif not skipped:
        optimizer.step()
    return skipped


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Every parameter, as the network computes with it, into [-bound, bound] (Arjovsky et al. 2017, algorithm 1)."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            scale = module.scale if isinstance(module, Equalized) and name == "weight" else 1.0
            parameter.clamp_(-bound / scale, bound / scale)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights, after the generator's step (paper, section 5)."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
