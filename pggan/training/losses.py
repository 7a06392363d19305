"""Adversarial losses, gradient penalties and label terms: what both networks minimize.

The default is WGAN-GP as in the paper. Let x be a real image, G(z) a generated one, D(x) the discriminator's unbounded
score, and x_hat = (1 - epsilon) x + epsilon G(z) a random point between them, epsilon uniform in [0, 1). Averaged over
a batch of r x r images on the way to R x R, the networks minimize

    L_D = D(G(z)) - D(x) + lambda (r/R |grad D(x_hat)| - gamma)^2 / gamma^2 + drift D(x)^2
    L_G = -D(G(z))

plus, with classes, the cross-entropy of D's class logits. Gulrajani et al. 2017, arXiv 1704.00028, equation 3 (they
weight x by epsilon, which has the same distribution); drift: Karras et al. 2018, arXiv 1710.10196, appendix A.1; gamma
and r/R: their released code. `Loss.discriminator_loss` and `Loss.generator_loss` compute them term by term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TrainConfig
from ..networks.multiscale import pyramid
from ..networks.operations import compute_input_gradients

Images = Tensor | list[Tensor]  # [N, C, r, r] in [-1, 1]; for --arch msg a list of them, one for each scale
# D at one resolution and alpha: images -> (scores [N], class logits [N, classes]). With batches=2, two batches that are
# concatenated go through D at once, and minibatch stddev treats them separately.
Critic = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Adversarial:
    """A pair of adversarial losses as functions of scores [N]; `Loss` averages them over the batch.

    Attributes:
        discriminator: (real scores, fake scores) -> the discriminator's loss [N].
        generator: (fake scores, real scores) -> the generator's loss [N].
        needs_reals: whether the generator's loss depends on the real scores too.
        boundary: score halfway between real and generated images, None if the loss depends on score differences only.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    needs_reals: bool = False
    boundary: float | None = None


WASSERSTEIN = Adversarial(lambda real, fake: fake - real, lambda fake, real: -fake)
"""D(fake) - D(real); -D(fake) (Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1)."""

# softplus(-x) = -log s(x) and softplus(x) = -log(1 - s(x)), s the sigmoid: the logarithms without overflow
MINIMAX = Adversarial(
    lambda real, fake: F.softplus(-real) + F.softplus(fake), lambda fake, real: -F.softplus(fake), boundary=0.0
)
"""-log s(D(real)) - log(1 - s(D(fake))); log(1 - s(D(fake))), s the sigmoid (Goodfellow et al. 2014, arXiv 1406.2661,
equation 1)."""

NONSATURATING = Adversarial(MINIMAX.discriminator, lambda fake, real: F.softplus(-fake), boundary=0.0)
"""Like minimax for D; -log s(D(fake)) for G, whose gradient does not vanish while D is confident (Goodfellow et al.
2014, section 3)."""

LSGAN = Adversarial(
    lambda real, fake: 0.5 * ((real - 1).square() + fake.square()),
    lambda fake, real: 0.5 * (fake - 1).square(),
    boundary=0.5,
)
"""(D(real) - 1)^2 / 2 + D(fake)^2 / 2; (D(fake) - 1)^2 / 2 (Mao et al. 2017, arXiv 1611.04076, equation 9)."""

HINGE = Adversarial(lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda fake, real: -fake, boundary=0.0)
"""max(0, 1 - D(real)) + max(0, 1 + D(fake)); -D(fake) (Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018,
arXiv 1802.05957, equations 16 and 17)."""

RELATIVISTIC = Adversarial(
    lambda real, fake: F.softplus(fake - real), lambda fake, real: F.softplus(real - fake), needs_reals=True
)
"""-log s(D(real) - D(fake)) over pairs, with real and fake exchanged for G (Jolicoeur-Martineau 2019, arXiv 1807.00734,
section 4.1; with R1 and R2 it is R3GAN's loss: Huang et al. 2024, arXiv 2501.05441, section 2)."""

ADVERSARIAL = {
    "wgan-gp": WASSERSTEIN,
    "wgan": WASSERSTEIN,
    "minimax": MINIMAX,
    "nonsaturating": NONSATURATING,
    "lsgan": LSGAN,
    "hinge": HINGE,
    "relativistic": RELATIVISTIC,
}


class Outputs(NamedTuple):
    """The critic's outputs for N images.

    Attributes:
        scores: D(x) [N]. logits: class logits [N, classes].
        squared_norms: (r/R |grad D(x)|)^2, [N] or [scales, N], or None if no penalty needs it.
    """

    scores: Tensor
    logits: Tensor
    squared_norms: Tensor | None


@dataclass(frozen=True)
class Loss:
    """The losses of both networks: an adversarial loss with any of the penalties, and label terms.

    The discriminator minimizes, averaged over the batch, its adversarial loss plus

        lambda (|grad D(x_hat)| - gamma)^2 / gamma^2    gp: Gulrajani et al. 2017, arXiv 1704.00028, equation 3
        r1 / 2 |grad D(real)|^2                         Mescheder et al. 2018, arXiv 1801.04406, equation 9
        r2 / 2 |grad D(fake)|^2                         the same, equation 10
        drift D(real)^2                                 Karras et al. 2018, appendix A.1

    and, with classes, the cross-entropy of both real and generated images (AC-GAN: Odena et al. 2017, arXiv
    1610.09585). A weight of 0 turns a term off. For --arch msg, each penalty has a gradient norm per scale and is
    averaged over scales (Karnewar and Wang 2020, arXiv 1903.06048).

    Args:
        full_resolution: R; gradients are taken with respect to the pixels of R x R images. The official code always
            feeds its discriminator full-size images: an r x r image is repeated R/r times in each direction, which
            multiplies the gradient norm by r/R. None: with respect to the image's own pixels.
        penalty: lambda. target: gamma, 750 for CIFAR-10. label_weight: weight of the label terms.
        smoothing: subtracted from the real images' target probability of 1 (one-sided label smoothing: Salimans et
            al. 2016, arXiv 1606.03498, section 3.4); for minimax and nonsaturating.
        consistency: weight of `scale_consistency` in G's loss.
    """

    adversarial: Adversarial
    full_resolution: int | None = None
    penalty: float = 0.0
    target: float = 1.0
    r1: float = 0.0
    r2: float = 0.0
    drift: float = 0.0
    smoothing: float = 0.0
    label_weight: float = 1.0
    consistency: float = 0.0

    @property
    def needs_reals(self) -> bool:
        """Whether `generator_loss` needs the real images."""
        return self.adversarial.needs_reals

    def scale_penalties(self, factor: float) -> Loss:
        """Return the loss with the weights of gp, r1 and r2 multiplied by a factor; at 0, none of them is computed.

        Lazy regularization (Karras et al. 2020, arXiv 1912.04958, section 3.1) computes them in every K-th step, at K
        times their weight. There, a penalty has an optimizer step of its own, and appendix B adapts Adam's lr and betas
        to K + 1 steps instead of K. Here, the penalty is part of every K-th step: K steps remain K, and lr and betas
        as they are.
        """
        return replace(self, penalty=self.penalty * factor, r1=self.r1 * factor, r2=self.r2 * factor)

    def discriminator_loss(
        self, critic: Critic, reals: Images, fakes: Images, epsilon: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the discriminator's loss L_D and the terms worth logging.

        Training differentiates its two parts, `score_loss` and `penalty_loss`, one after the other.

        Args:
            reals, fakes: [N, C, r, r] in [-1, 1], or a list of them by scale.
            epsilon: position of x_hat between each pair, [N, 1, 1, 1] in [0, 1). labels: class indices [N].

        Returns:
            "d_loss", a differentiable scalar, and the detached scalars "real_score", "fake_score", "real_sign" if the
            loss has a boundary, and, with a penalty, "grad_norm": at x_hat with gp, otherwise at the real images with
            r1, otherwise at the generated ones.
        """
        terms = self.score_loss(critic, reals, fakes, labels)
        if self.penalty:
            penalty = self.penalty_loss(critic, reals, fakes, epsilon)
            terms |= penalty | {"d_loss": terms["d_loss"] + penalty["d_loss"]}
        return terms

    def score_loss(
        self, critic: Critic, reals: Images, fakes: Images, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return all terms of `discriminator_loss` but the gradient penalty gp."""
        real, fake = self.critic_outputs(critic, reals, fakes)
        logged = {"real_score": real.scores, "fake_score": fake.scores}
        if self.adversarial.boundary is not None:
            logged["real_sign"] = (real.scores - self.adversarial.boundary).sign()

        loss = self.adversarial.discriminator(real.scores, fake.scores)  # WGAN: D(G(z)) - D(x)
        if self.smoothing:
            loss = loss + self.smoothing * real.scores  # softplus(x) - softplus(-x) = x
        if fake.squared_norms is not None:
            loss = loss + (self.r2 / 2) * fake.squared_norms
            logged["grad_norm"] = fake.squared_norms.detach().sqrt()
        if real.squared_norms is not None:
            loss = loss + (self.r1 / 2) * real.squared_norms
            logged["grad_norm"] = real.squared_norms.detach().sqrt()
        if self.drift:
            loss = loss + self.drift * real.scores.square()
        loss = loss.mean()
        if labels is not None:
            entropy = F.cross_entropy(real.logits, labels) + F.cross_entropy(fake.logits, labels)
            loss = loss + self.label_weight * entropy
        return {"d_loss": loss} | {name: value.detach().mean() for name, value in logged.items()}

    def penalty_loss(self, critic: Critic, reals: Images, fakes: Images, epsilon: Tensor) -> dict[str, Tensor]:
        """Return the gradient penalty gp at x_hat as "d_loss", and the mean gradient norm as "grad_norm"."""
        mixed = map_scales(lambda x, x_fake: torch.lerp(x, x_fake, epsilon), reals, fakes)  # x_hat
        norms = self.gradient_norms(critic, mixed)
        loss = (norms - self.target).square() * (self.penalty / self.target**2)
        return {"d_loss": loss.mean(), "grad_norm": norms.detach().mean()}

    def generator_loss(
        self, critic: Critic, fakes: Images, labels: Tensor | None = None, reals: Images | None = None
    ) -> dict[str, Tensor]:
        """Return the generator's loss L_G as "g_loss", a differentiable scalar.

        Args:
            fakes: [N, C, r, r] in [-1, 1], or a list of them by scale. labels: class indices [N].
            reals: as many real images, if `needs_reals`.
        """
        scores, logits = critic(fakes)
        real_scores = scores
        if self.needs_reals:
            assert reals is not None, "this loss needs real images"
            with torch.no_grad():
                real_scores, _ = critic(reals)
        loss = self.adversarial.generator(scores, real_scores).mean()  # WGAN: -D(G(z))
        if self.consistency and isinstance(fakes, list):
            loss = loss + self.consistency * scale_consistency(fakes)
        if labels is not None:
            loss = loss + self.label_weight * F.cross_entropy(logits, labels)
        return {"g_loss": loss}

    def critic_outputs(self, critic: Critic, reals: Images, fakes: Images) -> tuple[Outputs, Outputs]:
        """Return the critic's outputs for real and for generated images, with the gradients that r1 and r2 need.

        Both go through the critic in one pass, unless only one of them needs gradients: one pass would compute the
        gradients of both.
        """
        if bool(self.r1) != bool(self.r2):
            return self.outputs(critic, reals, bool(self.r1)), self.outputs(critic, fakes, bool(self.r2))
        both = map_scales(lambda *pair: torch.cat(pair), reals, fakes)
        scores, logits, squared_norms = self.outputs(critic, both, bool(self.r1), batches=2)
        real_norms, fake_norms = (None, None) if squared_norms is None else squared_norms.chunk(2, dim=-1)
        (real_scores, fake_scores), (real_logits, fake_logits) = scores.chunk(2), logits.chunk(2)
        return Outputs(real_scores, real_logits, real_norms), Outputs(fake_scores, fake_logits, fake_norms)

    def outputs(self, critic: Critic, images: Images, with_gradients: bool, batches: int = 1) -> Outputs:
        """Return the critic's outputs for one batch, or for `batches` concatenated batches of equal size."""
        images = detach_with_grad(images) if with_gradients else images
        scores, logits = critic(images, batches=batches)
        return Outputs(scores, logits, self.squared_gradient_norms(scores, images) if with_gradients else None)

    def gradient_norms(self, critic: Critic, images: Images) -> Tensor:
        """Return r/R |grad D(x)|, [N] or [scales, N], differentiable with respect to D's weights.

        The square root has an infinite derivative at 0: a gradient of exactly zero makes the step non-finite, so it is
        skipped.
        """
        images = detach_with_grad(images)
        scores, _ = critic(images)
        return self.squared_gradient_norms(scores, images).sqrt()

    def squared_gradient_norms(self, scores: Tensor, images: Images) -> Tensor:
        """Return (r/R |grad scores|)^2 with respect to the images [N], or to the images of each scale [scales, N]."""
        scales = images if isinstance(images, list) else [images]
        squares = [g.square().sum(dim=(1, 2, 3)) for g in compute_input_gradients(scores, scales)]
        side = scales[-1].shape[-1]  # the last scale is the largest
        norms = torch.stack(squares) if isinstance(images, list) else squares[0]
        return norms * (1 if self.full_resolution is None else (side / self.full_resolution) ** 2)


def map_scales(function: Callable[..., Tensor], *images: Images) -> Images:
    """Apply a function of tensors [N, C, r, r] to images, or for --arch msg to the images of each scale."""
    if isinstance(images[0], list):
        return [function(*scale) for scale in zip(*images, strict=True)]
    return function(*images)


def scale_consistency(images: list[Tensor]) -> Tensor:
    """Return how far lower scales are from the largest image, a scalar: the squared difference to its box average.

    It is averaged over pixels, then over scales. The largest image gets no gradient: it is the anchor that the others
    are to describe (Hyun et al. 2026, CAT, arXiv 2605.26449; the distance and its weight are ours).
    """
    lower, targets = images[:-1], pyramid(images[-1].detach())[:-1]
    return torch.stack([F.mse_loss(x, target) for x, target in zip(lower, targets, strict=True)]).mean()


def detach_with_grad(images: Images) -> Images:
    """Return the same images as leaves of a new graph, so that gradients can be taken with respect to them."""
    return map_scales(lambda x: x.detach().requires_grad_(True), images)


def WGANGP(
    full_resolution: int, penalty: float = 10.0, target: float = 1.0, drift: float = 0.001, label_weight: float = 1.0
) -> Loss:
    """Return the paper's loss without a TrainConfig (Karras et al. 2018, appendix A.1); arguments: see `Loss`."""
    return Loss(WASSERSTEIN, full_resolution, penalty, target, drift=drift, label_weight=label_weight)


def build_loss(config: TrainConfig) -> Loss:
    """Return the loss that the options describe, after `config.resolve_config` has filled in its defaults."""
    penalties = config.penalty.split("+")
    return Loss(
        ADVERSARIAL[config.loss],
        config.resolution if config.penalty_pixels == "full" else None,
        penalty=config.gp_weight if "gp" in penalties else 0.0,
        target=config.gp_target,
        r1=config.r_weight if "r1" in penalties else 0.0,
        r2=config.r_weight if "r2" in penalties else 0.0,
        drift=config.drift,
        smoothing=config.label_smoothing,
        label_weight=config.label_weight,
        consistency=config.scale_consistency,
    )


def find_cautions(config: TrainConfig) -> list[str]:
    """Return one warning for each combination of options that is known to train badly."""
    loss, penalty = f"--loss {config.loss}", f"--penalty {config.penalty}"
    found = []
    if config.loss == "minimax":
        found.append(
            f"{loss} saturates: the generator gets almost no gradient while the discriminator is confident; "
            "--loss nonsaturating avoids this"
        )
    if config.loss.startswith("wgan") and config.penalty == "none":
        found.append(
            f"{loss} {penalty} leaves the critic unconstrained, so its scores diverge; use --penalty gp or clip"
        )
    if config.loss == "relativistic" and config.penalty == "none":
        found.append(f"{loss} {penalty} may not converge (Huang et al. 2024, section 2); use --penalty r1+r2")
    if config.loss == "relativistic" and config.penalty in ("r1", "r2"):
        found.append(f"{loss} {penalty} may diverge early in training (Huang et al. 2024); use --penalty r1+r2")
    if config.penalty == "clip" and not config.loss.startswith("wgan"):
        better = "none" if config.arch == "dcgan" else "r1+r2" if config.loss == "relativistic" else "r1"
        found.append(
            f"{penalty} is meant for --loss wgan; with {loss} it weakens the discriminator and its gradients; use "
            f"--penalty {better}"
        )
    if config.penalty == "clip" and config.arch in ("pggan", "msg") and config.equalized_lr:
        found.append(
            f"{penalty} leaves the critic of --arch {config.arch} almost constant, and with an equalized learning rate "
            "its weights hardly move at a small --lr; use --preset wgan, which has a DCGAN, or --penalty gp"
        )
    if config.penalty == "clip" and config.optimizer == "adam":
        found.append(f"{penalty} is unstable with Adam (Arjovsky et al. 2017); use --preset wgan, which has RMSprop")
    if config.arch == "r3gan" and config.loss != "relativistic":
        found.append(f"--arch r3gan with {loss} is not R3GAN; use --preset r3gan without --loss")
    end = config.total_kimg
    if end is None and not config.is_growing:
        end = config.stabilize_kimg[max(r for r in config.stabilize_kimg if r <= (config.resolution or r))]
    if end is not None and end < config.burn_in_kimg:
        found.append(
            f"the run ends at {end:g} kimg, before the burn-in of {config.burn_in_kimg:g} kimg: the learning rate is "
            "still above --lr, and the moving average shorter than --ema-decay's; use a shorter --burn-in-kimg"
        )
    if config.arch == "dcgan" and config.penalty not in ("none", "clip"):
        found.append(
            f"--arch dcgan {penalty}: batch norm couples the images of a batch, so the gradient is no longer that of a "
            "single image (Gulrajani et al. 2017, section 4); expect a weaker effect"
        )
    return [f"warning: {sentence}" for sentence in found]
