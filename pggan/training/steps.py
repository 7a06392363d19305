"""One training step: update the discriminator D, update the generator G, average G's weights.

`Stepper.step` is the paper's algorithm, one update after the other; `compute_d_terms` and `compute_g_terms` return what
each network minimizes, and losses.py has the formulas. Nothing is read back from the device: alpha, losses and the
decision to skip a step with non-finite gradients stay in tensors, so that a GPU never waits for the host.
"""

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
from ..networks import to_one_hot
from ..networks.layers import Equalized, downscale, upscale
from ..networks.multiscale import pyramid
from .augment import Augmentation, compute_overfitting
from .growth import Phase
from .losses import Images, Loss, build_loss
from .ranks import SINGLE_PROCESS, Ranks, Share
from .state import TrainState, draw_latents, random_generator

Terms = dict[str, Tensor]  # scalars by name: a loss and the terms to log beside it
Stage = dict[str, Any]  # the networks' keywords: resolution, and alpha as a tensor while the stage fades in


@dataclass(frozen=True)
class Batch:
    """Real images from the dataset, uint8 [N, C, r, r], with class indices [N] if there are classes.

    Args:
        share: the samples of the global batch that these are; the random numbers of a step belong to the global batch.
    """

    images: Tensor
    labels: Tensor | None
    share: Share

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; from pinned memory the copy does not hold up the host."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.images.to(device, non_blocking=True), labels, self.share)

    def micro_batches(self, max_samples: int | None) -> Iterator[Batch]:
        """Yield micro-batches of at most `at_once` images, made of whole minibatch-stddev groups."""
        for share in self.share.micro_batches(max_samples):
            selection = share.relative_to(self.share)
            yield Batch(
                selection.select(self.images), None if self.labels is None else selection.select(self.labels), share
            )


@dataclass(frozen=True)
class Stepper:
    """Trains a state one step at a time.

    Args:
        loss: what both networks minimize. seed: of latents, mixing factors and mirroring.
        mirror: flip half of the real images. ema_decay: of G's moving average, per step.
        bf16: compute convolutions and matrix products in bfloat16.
        augment: applied to everything the discriminator sees.
        n_critic: updates of D per update of G. clip: bound on D's weights, or None.
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
    ranks: Ranks = SINGLE_PROCESS

    @classmethod
    def from_config(
        cls, config: TrainConfig, bf16: bool, augment: Augmentation | None = None, ranks: Ranks = SINGLE_PROCESS
    ) -> Stepper:
        """Return the stepper that the options describe."""
        return cls(
            build_loss(config),
            config.seed,
            config.mirror,
            config.ema_decay,
            bf16,
            augment or Augmentation(),
            config.n_critic,
            config.clip if config.penalty == "clip" else None,
            ranks,
        )

    def step(self, state: TrainState, batch: Batch, phase: Phase, held_out: Batch | None = None) -> None:
        """Update D on real and generated images, then G with fresh latents, then G's moving average.

        Gulrajani et al. 2017, algorithm 1, with one update of D per update of G (Karras et al. 2018, appendix A.1)
        unless `n_critic` says otherwise, and with the newest blocks faded in by alpha (section 2).

        Args:
            batch: this process's share; losses and gradients are those of the global batch in every process.
            held_out: real images that are never trained on, scored to measure overfitting.
        """
        alpha = torch.tensor(phase.alpha, device=state.device) if phase.is_fading else 1.0
        stage = {"resolution": phase.resolution, "alpha": alpha}
        micro_batches = list(batch.to(state.device).micro_batches(phase.micro_batch))
        held_out_terms = self.score_held_out(state, stage, held_out, phase)  # before D learns from this batch
        d_lr, g_lr = phase.d_and_g_lr

        # D minimizes  L_D = D(G(z)) - D(x) + lambda (|grad D(x_hat)| - gamma)^2 / gamma^2 + drift D(x)^2
        d_terms = accumulate_gradients(
            state.d_optimizer, micro_batches, partial(self.compute_d_terms, state, stage), "d_loss"
        )
        d_terms, d_skipped, d_norm = self.update(state.D, state.d_optimizer, d_terms | held_out_terms, "d_loss", d_lr)
        if self.clip is not None:
            clip_weights(state.D, self.clip)

        # G minimizes  L_G = -D(G(z)), with fresh latents z
        g_terms, g_skipped = {}, torch.zeros_like(d_skipped)
        if self.is_generator_step(state.images, batch.share.size):
            with freeze_weights(state.D):
                loss_terms = partial(self.compute_g_terms, state, stage)
                g_terms = accumulate_gradients(state.g_optimizer, micro_batches, loss_terms, "g_loss")
            g_terms, g_skipped, g_norm = self.update(state.G, state.g_optimizer, g_terms, "g_loss", g_lr)
            g_terms["g_gradient"] = g_norm
            update_ema(state.G_ema, state.G, self.ema_decay)

        self.note(state, d_terms | {"d_gradient": d_norm}, g_terms, torch.stack([d_skipped, g_skipped]))
        if held_out is not None:
            scores = [d_terms["real_score"], d_terms["held_out_score"], d_terms["fake_score"]]
            state.augment_p = self.augment.update_p(state.augment_p, compute_overfitting(*scores), batch.share.size)
        state.images += batch.share.size

    def is_generator_step(self, images: int, batch_size: int) -> bool:
        """Return whether the step after `images` real images updates G: every `n_critic`-th does."""
        return images // batch_size % self.n_critic == self.n_critic - 1

    def compute_d_terms(self, state: TrainState, stage: Stage, batch: Batch) -> Terms:
        """Return L_D on real images x and as many generated images G(z) of the same classes."""
        mixing = random_generator(self.seed, state.images, "mixing").random(
            (batch.share.size, 1, 1, 1), dtype=np.float32
        )
        epsilon = batch.share.select(torch.from_numpy(mixing)).to(state.device, non_blocking=True)
        with self.autocast(state):
            x = self.prepare_reals(state, stage, batch, "augmented reals")
            with torch.no_grad():  # D's update does not reach G
                x_fake = self.apply_augmentation(
                    state, self.generate_fakes(state, stage, batch, "d latents"), batch, "augmented fakes"
                )
            return self.loss.discriminator(partial(state.D, **stage), x, x_fake, epsilon, batch.labels)

    def compute_g_terms(self, state: TrainState, stage: Stage, batch: Batch) -> Terms:
        """Return L_G on fresh generated images, as many as the batch has real ones and of the same classes."""
        with self.autocast(state):
            x_fake = self.apply_augmentation(
                state, self.generate_fakes(state, stage, batch, "g latents"), batch, "augmented g fakes"
            )
            x = self.prepare_reals(state, stage, batch, "augmented reals") if self.loss.needs_reals else None
            return self.loss.generator(partial(state.D, **stage), x_fake, batch.labels, x)

    def score_held_out(self, state: TrainState, stage: Stage, held_out: Batch | None, phase: Phase) -> Terms:
        """Return D's mean score of held-out real images as "held_out_score", {} if there are none."""
        if held_out is None:
            return {}

        def score(batch: Batch) -> Terms:
            x = self.prepare_reals(state, stage, batch, "augmented held out")
            return {"held_out_score": state.D(x, **stage)[0].mean()}

        with torch.no_grad(), self.autocast(state):
            return mean_terms(held_out.to(state.device).micro_batches(phase.micro_batch), score)

    def prepare_reals(self, state: TrainState, stage: Stage, batch: Batch, purpose: str) -> Images:
        """Return real images as D sees them: float [N, C, r, r] in [-1, 1], mirrored, faded, augmented."""
        x = self.preprocess(batch, state.images, stage["alpha"])
        return self.apply_augmentation(state, pyramid(x) if state.D.multiscale else x, batch, purpose)

    def preprocess(self, batch: Batch, images_seen: int, alpha: float | Tensor) -> Tensor:
        """Return uint8 images [N, C, r, r] as floats in [-1, 1], half of them mirrored, and faded as G's output is."""
        x = batch.images
        if self.mirror:  # on bytes: a quarter of the memory traffic of floats
            flips = torch.from_numpy(random_generator(self.seed, images_seen, "mirror").random(batch.share.size) < 0.5)
            flips = batch.share.select(flips).to(x.device)
            x = torch.where(flips.view(-1, 1, 1, 1), x.flip(3), x)
        x = x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        return fade(x, alpha)

    def generate_fakes(self, state: TrainState, stage: Stage, batch: Batch, purpose: str) -> Images:
        """Return G(z), [N, C, r, r] or a list by scale; z depends on the seed, the images seen and the purpose."""
        z = batch.share.select(draw_latents(self.seed, state.images, purpose, batch.share.size, state.G.latent_size))
        z, labels = z.to(state.device, non_blocking=True), to_one_hot(batch.labels, state.G.label_size)
        return state.G.pyramid(z, labels) if state.G.multiscale else state.G(z, labels, **stage)

    def apply_augmentation(self, state: TrainState, images: Images, batch: Batch, purpose: str) -> Images:
        if isinstance(images, list):  # --arch msg, for which there is no augmentation
            return images
        return self.augment(images, state.augment_p, random_generator(self.seed, state.images, purpose), batch.share)

    def autocast(self, state: TrainState) -> torch.autocast:
        return torch.autocast(state.device.type, torch.bfloat16, enabled=self.bf16)

    def update(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, terms: Terms, loss: str, lr: float
    ) -> tuple[Terms, Tensor, Tensor]:
        """Sum gradients and terms over all processes and take one optimizer step, unless a gradient is not finite.

        Returns:
            The terms of the global batch; 1.0 if the step was skipped, else 0.0; the gradient's norm over all weights.
        """
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self.ranks.all_reduce([*gradients, *terms.values()])  # in place
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = 1 - (norm.isfinite() & terms[loss].isfinite()).float()
        for group in optimizer.param_groups:
            group["lr"] = lr
        if optimizer.defaults.get("fused"):  # the fused kernel reads found_inf on the device, as for a GradScaler
            optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
            optimizer.step()
        elif not skipped:
            optimizer.step()
        return terms, skipped, norm

    def note(self, state: TrainState, d_terms: Terms, g_terms: Terms, skipped: Tensor) -> None:
        """Add a step's terms to the sums of the next log line, and count the steps skipped in a row.

        skipped: 1.0 for each of [D, G] whose update was skipped. Steps that do not train G leave its count as it is.
        """
        in_a_row = (state.skipped_in_a_row + skipped) * skipped
        state.skipped_in_a_row = in_a_row if g_terms else torch.stack([in_a_row[0], state.skipped_in_a_row[1]])
        terms = d_terms | g_terms | {"skipped": skipped.sum()}
        if "held_out_score" in terms:  # for a log line's overfitting, over the same steps
            terms |= {"seen_score": terms["real_score"], "faked_score": terms["fake_score"]}
        state.accumulate(terms)


def accumulate_gradients(
    optimizer: torch.optim.Optimizer, micro_batches: Iterable[Batch], loss_terms: Callable[[Batch], Terms], loss: str
) -> Terms:
    """Set the gradients of the optimizer's parameters to those of the term `loss`, summed over micro-batches.

    Returns:
        This process's contribution to the global batch's mean of each term.
    """
    optimizer.zero_grad()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def backward(batch: Batch) -> Terms:
        terms = loss_terms(batch)
        (terms[loss] * batch.share.weight).backward(inputs=parameters)
        return terms

    return mean_terms(micro_batches, backward)


def mean_terms(micro_batches: Iterable[Batch], terms_of: Callable[[Batch], Terms]) -> Terms:
    """Return this process's contribution to the global batch's mean of each term, detached."""
    sums: Terms = {}
    for batch in micro_batches:
        terms = {name: term.detach() * batch.share.weight for name, term in terms_of(batch).items()}
        sums = {name: sums[name] + term if name in sums else term for name, term in terms.items()}
    return sums


def fade(reals: Tensor, alpha: float | Tensor) -> Tensor:
    """Return real images [N, C, r, r] blended with their own half resolution, as G's output is while a stage fades in.

    Karras et al. 2018, figure 2: real images are interpolated between the two resolutions as well.
    """
    return torch.lerp(upscale(downscale(reals)), reals, alpha) if isinstance(alpha, Tensor) else reals


@contextmanager
def freeze_weights(network: nn.Module) -> Iterator[None]:
    """Compute no gradients for the network's weights in this block; gradients still pass through it to its input."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


@torch.no_grad()
def clip_weights(network: nn.Module, bound: float) -> None:
    """Clamp every parameter, as used by the network, to [-bound, bound] (Arjovsky et al. 2017, algorithm 1)."""
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            scale = module.scale if isinstance(module, Equalized) and name == "weight" else 1.0
            parameter.clamp_(-bound / scale, bound / scale)


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Set ema to decay * ema + (1 - decay) * network, buffers included (Karras et al. 2018, appendix A.1: 0.999)."""
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
    for ours, theirs in zip(ema.buffers(), network.buffers(), strict=True):  # batch norm's statistics, and its count
        ours.lerp_(theirs, 1 - decay) if ours.is_floating_point() else ours.copy_(theirs)
