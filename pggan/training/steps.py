"""One training step: update the discriminator D, update the generator G, average G's weights.

A step has three parts: `Stepper.draw_inputs` draws every random number on the host, `Stepper.update` is the paper's
algorithm in order and runs on the device alone, and `Stepper.step` counts. `compute_d_terms` and `compute_g_terms`
yield what each network minimizes, and losses.py has the formulas. An update never waits for the device: alpha,
learning rates, losses and the decision to skip a step with non-finite gradients are tensors, so that the host runs
ahead of a GPU, and a CUDA graph can replay the whole update (graphs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import TrainConfig
from ..networks import to_one_hot
from ..networks.layers import Equalized, SharedKernels, downscale, share_kernels, upscale, use_kernels
from ..networks.multiscale import pyramid
from .augment import Augmentation, measure_overfitting
from .batch import Batch, Inputs, copy_to_device
from .graphs import UpdateGraphs, uses_graphs
from .growth import Phase
from .losses import Images, Loss, build_loss
from .power_ema import compute_decays, update_averages
from .ranks import SINGLE_PROCESS, Ranks
from .state import TrainState, draw_latents, random_generator, set_beta2, set_lr

Terms = dict[str, Tensor]  # scalars by name: a loss and the terms to log beside it
Stage = dict[str, Any]  # keyword arguments of G and D: resolution and alpha


@dataclass(frozen=True)
class Stepper:
    """Takes training steps.

    Args:
        loss: the losses of both networks. seed: seeds latents, epsilon, mirroring and augmentation.
        mirror: flip each real image with probability 1/2. ema_decay: decay of the moving average of G, per step.
        bf16: compute convolutions and matrix products in bfloat16.
        augment: applied to everything the discriminator sees; by default the identity.
        n_critic: updates of D per update of G. clip: bound on D's weights, or None.
        penalty_every: steps from one that computes gradient penalties to the next.
        ranks: the processes that share each batch. graphs: replays updates as CUDA graphs; None: runs them eagerly.
    """

    loss: Loss
    seed: int
    mirror: bool
    ema_decay: float
    bf16: bool = False
    augment: Augmentation = field(default_factory=Augmentation)
    n_critic: int = 1
    penalty_every: int = 1
    clip: float | None = None
    ranks: Ranks = SINGLE_PROCESS
    graphs: UpdateGraphs | None = None

    @classmethod
    def from_config(
        cls,
        config: TrainConfig,
        bf16: bool,
        augment: Augmentation | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        device: torch.device | None = None,
    ) -> Stepper:
        """Return the stepper that the options describe; without a device, it uses no CUDA graphs."""
        return cls(
            loss=build_loss(config),
            seed=config.seed,
            mirror=config.mirror,
            ema_decay=config.ema_decay,
            bf16=bf16,
            augment=augment or Augmentation(),
            n_critic=config.n_critic,
            penalty_every=config.penalty_every,
            clip=config.clip if config.penalty == "clip" else None,
            ranks=ranks,
            graphs=UpdateGraphs() if device and uses_graphs(config, device, ranks) else None,
        )

    def step(self, state: TrainState, batch: Batch, phase: Phase, held_out: Batch | None = None) -> None:
        """Update D on real and generated images, then G with fresh latents, then G's moving average.

        Gulrajani et al. 2017, algorithm 1, with one update of D per update of G (Karras et al. 2018, appendix A.1)
        unless `n_critic` says otherwise, and with the newest blocks faded in by alpha (section 2).

        Args:
            batch: this process's share; losses and gradients are those of the global batch in every process.
            held_out: real images that are never trained on, scored to measure overfitting.
        """
        inputs = self.draw_inputs(state, batch, phase, held_out)
        for optimizer, lr in zip((state.d_optimizer, state.g_optimizer), phase.d_and_g_lr, strict=True):
            set_lr(optimizer, lr)
            set_beta2(optimizer, phase.burn_in)
        update = self.at_burn_in(phase.burn_in).update
        terms = self.graphs.run(update, state, inputs) if self.graphs else update(state, inputs)
        state.images += batch.share.global_size
        if inputs.trains_generator:
            state.averaged = state.images
        state.accumulate(terms)

    def at_burn_in(self, weight: float) -> Stepper:
        """Return the stepper with R3GAN's initial values mixed in (authors' code, train.py).

        R1 and R2 begin at 10 times their weight. The half-life of the moving average begins at 0, which is a copy of G.
        """
        if not weight:
            return self
        gamma = 1 + 9 * weight
        # half-life * (1 - weight): decay = 0.5^(batch / half-life)
        ema_decay = self.ema_decay ** (1 / (1 - weight)) if weight < 1 else 0.0
        loss = replace(self.loss, r1=self.loss.r1 * gamma, r2=self.loss.r2 * gamma)
        return replace(self, loss=loss, ema_decay=ema_decay)

    def draw_inputs(self, state: TrainState, batch: Batch, phase: Phase, held_out: Batch | None = None) -> Inputs:
        """Return the update's inputs on the state's device: the images, and random numbers drawn on the host."""
        trains_generator = self.is_generator_step(state.images, batch.share.global_size)
        scalars = {"alpha": torch.tensor(phase.alpha)} if phase.is_fading else {}
        if state.power_averages:
            images = state.images + batch.share.global_size
            scalars["decays"] = torch.tensor(compute_decays(images - state.start, images - state.averaged))
        noise = self.draw_noise(state, batch, ["reals", "fakes", *(["g fakes"] if trains_generator else [])])
        held_out_noise = self.draw_noise(state, held_out, ["held out"]) if held_out else {}
        numbers = copy_to_device(
            scalars | noise | {f"held out {name}": values for name, values in held_out_noise.items()}, state.device
        )
        return Inputs(
            replace(batch.to(state.device), noise={name: numbers[name] for name in noise}),
            held_out
            and replace(
                held_out.to(state.device), noise={name: numbers[f"held out {name}"] for name in held_out_noise}
            ),
            alpha=numbers.get("alpha", 1.0),
            resolution=phase.resolution,
            micro_batch=phase.micro_batch,
            trains_generator=trains_generator,
            has_penalty=self.is_penalty_step(state.images, batch.share.global_size),
            decays=numbers.get("decays"),
        )

    def update(self, state: TrainState, inputs: Inputs) -> Terms:
        """Update all networks on the device; return the terms to log. Reads nothing back, changes tensors in place."""
        stage = {"resolution": inputs.resolution, "alpha": inputs.alpha}
        micro_batches = list(inputs.batch.micro_batches(inputs.micro_batch))
        g_kernels = share_kernels(state.G)

        # D minimizes  L_D = D(G(z)) - D(x) + lambda (r/R |grad D(x_hat)| - gamma)^2 / gamma^2 + drift D(x)^2
        loss = self.loss.scale_penalties(self.penalty_every if inputs.has_penalty else 0)
        compute_terms = partial(self.compute_d_terms, state, stage, loss)
        with use_kernels(g_kernels), use_kernels(share_kernels(state.D)) as d_kernels:
            held_out_terms = self.score_held_out(state, stage, inputs)  # before D learns from this batch
            d_terms = accumulate_gradients(state.d_optimizer, micro_batches, compute_terms, "d_loss", d_kernels)
        d_terms |= held_out_terms
        d_skipped, d_norm = self.apply_gradients(state.D, state.d_optimizer, d_terms, "d_loss")
        if self.clip is not None:
            clip_weights(state.D, self.clip)

        # G minimizes  L_G = -D(G(z)), with fresh latents z
        g_terms: Terms = {}
        g_skipped, g_norm = torch.zeros_like(d_skipped), None
        if inputs.trains_generator:
            compute_terms = partial(self.compute_g_terms, state, stage)
            with (
                freeze_weights(state.D),
                use_kernels(g_kernels),
                use_kernels(share_kernels(state.D)),
            ):
                g_terms = accumulate_gradients(state.g_optimizer, micro_batches, compute_terms, "g_loss", g_kernels)
            g_skipped, g_norm = self.apply_gradients(state.G, state.g_optimizer, g_terms, "g_loss")
            update_ema(state.G_ema, state.G, self.ema_decay)  # G is unchanged if its update was skipped
            if inputs.decays is not None:
                update_averages(list(state.power_averages.values()), state.G, inputs.decays)

        batch_size = inputs.batch.share.global_size
        return self.finish_update(state, d_terms | g_terms, (d_norm, g_norm), (d_skipped, g_skipped), batch_size)

    def is_generator_step(self, images: int, batch_size: int) -> bool:
        """Return whether the step after `images` real images updates G: every `n_critic`-th does."""
        return images // batch_size % self.n_critic == self.n_critic - 1

    def is_penalty_step(self, images: int, batch_size: int) -> bool:
        """Return whether the step after `images` real images computes gradient penalties: every K-th does."""
        return images // batch_size % self.penalty_every == 0

    def draw_noise(self, state: TrainState, batch: Batch, images: list[str]) -> dict[str, Tensor]:
        """Return the random numbers [N, ...] that this process's share of a step needs, by purpose, in main memory.

        images: which are computed: "reals", "fakes", "g fakes", "held out".
        """
        size, latent_size = batch.share.global_size, state.G.latent_size
        noise = {
            f"augmented {name}": self.augment.draw(
                random_generator(self.seed, state.images, f"augmented {name}"), size, batch.images.shape[-1]
            )
            for name in (images if self.augment.mode != "none" else [])
        }
        if self.mirror:
            flips = random_generator(self.seed, state.images, "mirror").random(size) < 0.5
            noise["mirror"] = torch.from_numpy(flips.astype(np.float32))
        if "fakes" in images:
            noise["d latents"] = draw_latents(self.seed, state.images, "d latents", size, latent_size)
            mixing = random_generator(self.seed, state.images, "mixing").random((size, 1, 1, 1), dtype=np.float32)
            noise["mixing"] = torch.from_numpy(mixing)
        if "g fakes" in images:
            noise["g latents"] = draw_latents(self.seed, state.images, "g latents", size, latent_size)
        return {name: batch.share.select(numbers) for name, numbers in noise.items()}

    def compute_d_terms(self, state: TrainState, stage: Stage, loss: Loss, batch: Batch) -> Iterator[Terms]:
        """Yield L_D on real images x and as many generated images G(z) of the same classes, in parts.

        The penalty has a graph of its own: each part's memory is freed before the next is computed.
        """
        critic = partial(state.D, **stage)
        with self.autocast(state):
            x = self.prepare_reals(state, stage, batch, "augmented reals")
            with torch.no_grad():  # D's loss needs no gradients of G's weights
                x_fake = self.generate_fakes(state, stage, batch, "d latents", "augmented fakes")
            terms = loss.score_loss(critic, x, x_fake, batch.labels)
        yield terms
        if loss.penalty:
            with self.autocast(state):
                terms = loss.penalty_loss(critic, x, x_fake, batch.noise["mixing"])
            yield terms

    def compute_g_terms(self, state: TrainState, stage: Stage, batch: Batch) -> Iterator[Terms]:
        """Yield L_G on freshly generated images, one per real image of the batch and of the same class."""
        with self.autocast(state):
            x_fake = self.generate_fakes(state, stage, batch, "g latents", "augmented g fakes")
            x = self.prepare_reals(state, stage, batch, "augmented reals") if self.loss.needs_reals else None
            terms = self.loss.generator_loss(partial(state.D, **stage), x_fake, batch.labels, x)
        yield terms

    def score_held_out(self, state: TrainState, stage: Stage, inputs: Inputs) -> Terms:
        """Return D's mean score of held-out real images as "held_out_score", {} if there are none."""
        sums: Terms = {}
        for batch in inputs.held_out.micro_batches(inputs.micro_batch) if inputs.held_out else ():
            with torch.no_grad(), self.autocast(state):
                scores, _ = state.D(self.prepare_reals(state, stage, batch, "augmented held out"), **stage)
            add_terms(sums, {"held_out_score": scores.mean()}, batch.share.weight)
        return sums

    def prepare_reals(self, state: TrainState, stage: Stage, batch: Batch, augmentation: str) -> Images:
        """Turn uint8 images [N, C, r, r] into what D sees: floats in [-1, 1], mirrored, faded and augmented.

        While a stage fades in, real images are blended with their own half resolution, as generated ones are
        (Karras et al. 2018, figure 2). For --arch msg, returns the images of every scale.
        """
        x = batch.images
        if self.mirror:  # on bytes: a quarter of the memory traffic of floats
            x = torch.where(batch.noise["mirror"].view(-1, 1, 1, 1) > 0, x.flip(3), x)
        x = x.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        x = fade(x, stage["alpha"])
        return self.apply_augmentation(state, pyramid(x) if state.D.multiscale else x, batch, augmentation)

    def generate_fakes(self, state: TrainState, stage: Stage, batch: Batch, latents: str, augmentation: str) -> Images:
        """Return augmented images G(z), [N, C, r, r] or a list by scale, of the batch's classes.

        latents, augmentation: which of the batch's random numbers to use.
        """
        z, labels = batch.noise[latents], to_one_hot(batch.labels, state.G.label_size)  # None without classes
        images = state.G.pyramid(z, labels) if state.G.multiscale else state.G(z, labels, **stage)
        return self.apply_augmentation(state, images, batch, augmentation)

    def apply_augmentation(self, state: TrainState, images: Images, batch: Batch, name: str) -> Images:
        if self.augment.mode == "none" or isinstance(images, list):  # --arch msg has no augmentation
            return images
        return self.augment(images, state.augment_p, batch.noise[name])

    def autocast(self, state: TrainState) -> torch.autocast:
        return torch.autocast(state.device.type, torch.bfloat16, enabled=self.bf16)

    def apply_gradients(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, terms: Terms, loss: str
    ) -> tuple[Tensor, Tensor]:
        """Sum gradients and terms over all processes, in place, and take one optimizer step.

        The step is skipped as a whole if a gradient or the term `loss` is not finite.

        Returns:
            1.0 if the step was skipped, else 0.0; the norm of the gradient over all weights.
        """
        gradients = [p.grad for p in network.parameters() if p.grad is not None]  # blocks above the stage have none
        self.ranks.all_reduce([*gradients, *terms.values()])
        norm = torch.nn.utils.get_total_norm(gradients)
        skipped = 1 - (norm.isfinite() & terms[loss].isfinite()).float()
        if optimizer.defaults.get("fused"):  # torch's contract with GradScaler: with found_inf 1, kernels do nothing
            optimizer.grad_scale, optimizer.found_inf = None, skipped  # type: ignore[attr-defined]
        else:  # RMSprop has no such kernel: a gradient of zero leaves the weights as they are
            for gradient in gradients:
                gradient.masked_fill_(skipped > 0, 0.0)
        optimizer.step()
        return skipped, norm

    def finish_update(
        self,
        state: TrainState,
        terms: Terms,
        norms: tuple[Tensor, Tensor | None],
        skipped: tuple[Tensor, Tensor],
        batch_size: int,
    ) -> Terms:
        """Count skipped updates, adapt the augmentation, and return all terms to log.

        norms, skipped: of (D, G); the norm is None if this step did not update G, whose count then stays as it is.
        """
        (d_norm, g_norm), trained_g = norms, norms[1] is not None
        in_a_row = (state.skipped_in_a_row + torch.stack(skipped)) * torch.stack(skipped)
        count = 2 if trained_g else 1
        state.skipped_in_a_row[:count].copy_(in_a_row[:count])
        terms = terms | {"d_gradient": d_norm, "skipped": skipped[0] + skipped[1]}
        if g_norm is not None:
            terms["g_gradient"] = g_norm
        if "held_out_score" in terms:
            terms |= {"seen_score": terms["real_score"], "faked_score": terms["fake_score"]}
        measured = measure_overfitting(terms) if self.augment.mode == "ada" else None
        if measured is not None:
            self.augment.adapt(state.augment_p, state.augment_signal, measured, batch_size)
        return terms


def accumulate_gradients(
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[Batch],
    compute_terms: Callable[[Batch], Iterable[Terms]],
    loss: str,
    kernels: SharedKernels | None,
) -> Terms:
    """Set the gradients of the optimizer's parameters to those of the term `loss`, summed over micro-batches.

    Args:
        compute_terms: yields the loss of a micro-batch in one or more parts, each differentiated before the next.
        kernels: of the network, if its passes share them.

    Returns:
        This process's contribution to the global batch's mean of each term, detached.
    """
    optimizer.zero_grad()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sums: Terms = {}
    for batch in micro_batches:
        for terms in compute_terms(batch):
            (terms[loss] * batch.share.weight).backward(inputs=parameters + (kernels.leaves() if kernels else []))
            add_terms(sums, terms, batch.share.weight)
        if kernels:
            kernels.backward(parameters)  # here, so that micro-batches are summed in the weights' float32
    return sums


def add_terms(sums: Terms, terms: Terms, weight: float) -> None:
    """Add a micro-batch's terms to `sums`; weight: the micro-batch's fraction of the global batch."""
    for name, term in terms.items():
        term = term.detach() * weight
        sums[name] = sums[name] + term if name in sums else term


def fade(reals: Tensor, alpha: float | Tensor) -> Tensor:
    """Return (1 - alpha) up(down(x)) + alpha x for real images x [N, C, r, r]; x itself unless alpha is a tensor.

    down averages 2x2 boxes, up repeats pixels.
    """
    return torch.lerp(upscale(downscale(reals)), reals, alpha) if isinstance(alpha, Tensor) else reals


@contextmanager
def freeze_weights(network: nn.Module) -> Iterator[None]:
    """Compute no gradients for the network's weights in this block; they still pass through it to its input.

    backward(inputs=...) alone would not save that work: the convolutions here are custom Functions, which cannot know.
    """
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
