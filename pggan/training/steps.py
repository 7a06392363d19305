"""One discriminator update, one generator update, the EMA: the hot path; nothing is read back from the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..networks import one_hot
from ..networks.layers import Equalized, downscale, upscale
from ..networks.multiscale import pyramid
from .augment import Augmentation, overfitting
from .growth import Phase
from .losses import Images, Loss, objective
from .ranks import ALONE, Ranks, Share
from .state import TrainState, draws, latents

Terms = dict[str, Tensor]  # scalars by name: the loss and what it is made of
Stage = dict[str, Any]  # the networks' keywords resolution and alpha


@dataclass(frozen=True)
class Batch:
    """Real images as they come from the pyramid, uint8 [N, C, r, r], with class indices [N] where there are classes.

    Args:
        share: which samples of the global batch they are.
    """

    images: Tensor
    labels: Tensor | None
    share: Share

    def to(self, device: torch.device) -> Batch:
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), labels, self.share)

    def split(self, at_once: int | None) -> Iterator[Batch]:
        """In parts of at most so many images, in whole minibatch-stddev groups."""
        for share in self.share.split(at_once):
            own = share.within(self.share)
            yield Batch(own.of(self.images), None if self.labels is None else own.of(self.labels), share)


@dataclass(frozen=True)
class Stepper:
    """Carries out steps on a state under one loss.

    Args:
        seed: of the latents, mixing factors and mirror flips. mirror: flip half of the reals.
        ema_decay: per step. bf16: run convolutions and products in bfloat16.
        augment: of all that the discriminator sees.
        n_critic: steps of D to one of G. clip: bound on D's weights, or None.
        ranks: the processes that share each batch.
    """

    loss: Loss
    seed: int
    mirror: bool
    ema_decay: float
    bf16: bool = False
    augment: Augmentation = field(default_factory=Augmentation)
    n_critic: int = 1
    clip: float | None = None
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls, config: TrainConfig, bf16: bool, augment: Augmentation | None = None, ranks: Ranks = ALONE
    ) -> Stepper:  # fmt: skip
        """The stepper that the options name."""
        clip = config.clip if config.penalty == "clip" else None
        return cls(
            objective(config), config.seed, config.mirror, config.ema_decay, bf16, augment or Augmentation(),
            config.n_critic, clip, ranks,
        )  # fmt: skip

    def step(self, state: TrainState, batch: Batch, phase: Phase, held_out: Batch | None = None) -> None:
        """Train D on reals and fakes, then every n_critic-th time G with fresh latents and its EMA; count the reals.

        Args:
            batch: this process' share of it; losses and gradients are those of the global batch in every process.
            held_out: real images that are never trained on, like the batch's, to see whether D knows its own by heart.
        """
        alpha = torch.tensor(phase.alpha, device=state.device) if phase.fading else 1.0
        stage = {"resolution": phase.resolution, "alpha": alpha}
        parts = list(batch.to(state.device).split(phase.micro_batch))
        shown = [] if held_out is None else held_out.to(state.device).split(phase.micro_batch)
        with torch.no_grad():
            signal = means(shown, partial(self.held_out_terms, state, stage))
        d_lr, g_lr = phase.lrs
        d_terms = means(parts, partial(self.d_terms, state, stage), state.d_optimizer, "d_loss")
        d_skipped, d_norm = self.update(state.D, state.d_optimizer, d_terms | signal, "d_loss", d_lr)
        if self.clip is not None:
            clip_weights(state.D, self.clip)
        g_terms, g_skipped = {}, torch.zeros_like(d_skipped)
        if self.trains_generator(state.images, batch.share.size):
            with frozen(state.D):
                g_terms = means(parts, partial(self.g_terms, state, stage), state.g_optimizer, "g_loss")
            g_skipped, g_norm = self.update(state.G, state.g_optimizer, g_terms, "g_loss", g_lr)
            g_terms["g_gradient"] = g_norm
            update_ema(state.G_ema, state.G, self.ema_decay)

        skipped = torch.stack([d_skipped, g_skipped])
        in_a_row = (state.skipped_in_a_row + skipped) * skipped
        state.skipped_in_a_row = in_a_row if g_terms else torch.stack([in_a_row[0], state.skipped_in_a_row[1]])
        state.add(d_terms | g_terms | {"d_gradient": d_norm, "skipped": skipped.sum()})
        if held_out is not None:
            scores = {"seen": d_terms["real_score"], **signal, "faked": d_terms["fake_score"]}
            state.add({f"{name}_score": score for name, score in scores.items()})
            state.augment_p = self.augment.moved(state.augment_p, overfitting(*scores.values()), batch.share.size)
        state.images += batch.share.size

    def trains_generator(self, images: int, batch_size: int) -> bool:
        """Whether the step after so many images ends with one of G: every n_critic-th, known from the images alone."""
        return images // batch_size % self.n_critic == self.n_critic - 1

    def d_terms(self, state: TrainState, stage: Stage, part: Batch) -> Terms:
        """The discriminator's loss on a part of the batch and as many fakes, and what it is made of."""
        mixing = draws(self.seed, state.images, "mixing").random((part.share.size, 1, 1, 1), dtype=np.float32)
        mixing = part.share.of(torch.from_numpy(mixing)).to(state.device, non_blocking=True)
        with self.autocast(state):
            reals = self.reals(state, stage, part, "augmented reals")
            with torch.no_grad():
                fakes = self.augmented(state, self.fakes(state, stage, part, "d latents"), part, "augmented fakes")
            return self.loss.discriminator(partial(state.D, **stage), reals, fakes, mixing, part.labels)

    def g_terms(self, state: TrainState, stage: Stage, part: Batch) -> Terms:
        """The generator's loss, on as many fresh fakes as a part of the batch has images, of the same classes."""
        with self.autocast(state):
            fakes = self.augmented(state, self.fakes(state, stage, part, "g latents"), part, "augmented g fakes")
            reals = self.reals(state, stage, part, "augmented reals") if self.loss.paired else None
            return self.loss.generator(partial(state.D, **stage), fakes, part.labels, reals)

    def held_out_terms(self, state: TrainState, stage: Stage, part: Batch) -> Terms:
        """D's mean score of reals it was never trained on, shown to it as the others are."""
        with self.autocast(state):
            return {"held_out": state.D(self.reals(state, stage, part, "augmented held out"), **stage)[0].mean()}

    def autocast(self, state: TrainState) -> torch.autocast:
        return torch.autocast(state.device.type, torch.bfloat16, enabled=self.bf16)

    def reals(self, state: TrainState, stage: Stage, part: Batch, purpose: str) -> Images:
        reals = self.prepare(part, state.images, stage["alpha"])
        return self.augmented(state, pyramid(reals) if state.D.multiscale else reals, part, purpose)

    def prepare(self, part: Batch, seen: int, alpha: float | Tensor) -> Tensor:
        """uint8 [N, C, r, r] -> float in [-1, 1], half of them mirrored, and faded like the fakes (official code)."""
        images = part.images
        if self.mirror:  # of bytes, which are quicker to move than floats
            flips = torch.from_numpy(draws(self.seed, seen, "mirror").random(part.share.size) < 0.5)
            flips = part.share.of(flips).to(images.device)
            images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
        reals = images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        return fade(reals, alpha)

    def fakes(self, state: TrainState, stage: Stage, part: Batch, purpose: str) -> Images:
        z = part.share.of(latents(self.seed, state.images, purpose, part.share.size, state.G.latent_size))
        z, hot = z.to(state.device, non_blocking=True), one_hot(part.labels, state.G.label_size)
        return state.G.pyramid(z, hot) if state.G.multiscale else state.G(z, hot, **stage)

    def augmented(self, state: TrainState, images: Images, part: Batch, purpose: str) -> Images:
        if isinstance(images, list):  # of --arch msg, for which there is no augmentation
            return images
        return self.augment(images, state.augment_p, draws(self.seed, state.images, purpose), part.share)

    def update(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, terms: Terms, loss: str, lr: float
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One optimizer step, left out as a whole where a gradient is not finite.

        Returns 1.0 where it was left out, and the norm of the gradient by all weights.

        Before it, gradients and terms become the global batch's: the sums over all processes.
        """
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self.ranks.add_up([*gradients, *terms.values()])
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = 1 - (norm.isfinite() & terms[loss].isfinite()).float()
        for group in optimizer.param_groups:
            group["lr"] = lr
        if optimizer.defaults.get("fused"):
            vars(optimizer).update(grad_scale=None, found_inf=skipped)  # the fused kernel reads it on the device
            optimizer.step()
        elif not skipped:
            optimizer.step()
        return skipped, norm


def means(
    parts: Iterable[Batch], terms_of: Callable[[Batch], Terms], optimizer: torch.optim.Optimizer | None = None,
    loss: str = "",
) -> Terms:  # fmt: skip
    """What parts of a batch, one after another, contribute to the terms' means over the global batch.

    With an optimizer, its parameters' gradients become what the parts contribute to the gradient of the term `loss`.
    """
    sums: Terms = {}
    if optimizer:
        optimizer.zero_grad()
    for part in parts:
        terms = {name: term * part.share.weight for name, term in terms_of(part).items()}
        if optimizer:
            terms[loss].backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
        sums = {name: sums[name] + term.detach() if name in sums else term.detach() for name, term in terms.items()}
    return sums


def fade(reals: Tensor, alpha: float | Tensor) -> Tensor:
    """Reals [N, C, r, r] mixed with their own lower resolution as the fakes are (official code)."""
    return torch.lerp(upscale(downscale(reals)), reals, alpha) if isinstance(alpha, Tensor) else reals


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """What is computed with the network's weights meanwhile takes no gradients by them."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Every parameter, as the network computes with it, into [-bound, bound] (Arjovsky et al. 2017, algorithm 1)."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            scale = module.scale if isinstance(module, Equalized) and name == "weight" else 1.0
            parameter.clamp_(-bound / scale, bound / scale)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """ema <- decay ema + (1 - decay) weights, after the generator's step (paper, section 5); buffers alike."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for ours, theirs in zip(ema.buffers(), network.buffers(), strict=True):  # batch norm's statistics, and its count
        ours.lerp_(theirs, 1 - decay) if ours.is_floating_point() else ours.copy_(theirs)
