"""Adversarial losses, gradient penalties and label terms: what both networks minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import TrainConfig
from ..networks.operations import input_gradients

Images = Tensor | list[Tensor]  # [N, C, r, r], or one such tensor for each scale
Critic = Callable[..., tuple[Tensor, Tensor]]  # images, batches=1 -> (scores [N], label logits [N, L])


@dataclass(frozen=True)
class Adversarial:
    """A game of two networks over scores [N], averaged over the batch by `Loss`.

    Attributes:
        discriminator: (real scores, fake scores) -> what the discriminator minimises, [N].
        generator: (fake scores, real scores) -> what the generator minimises, [N].
        paired: the generator's depends on the real scores too.
        smooth: the discriminator's guesses a probability, which can be held below 1 by label smoothing.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[[Tensor, Tensor], Tensor]
    paired: bool = False
    smooth: bool = False


WASSERSTEIN = Adversarial(lambda real, fake: fake - real, lambda fake, real: -fake)
"""D(fake) - D(real); -D(fake) (Arjovsky et al. 2017, arXiv 1701.07875, algorithm 1)."""

MINIMAX = Adversarial(
    lambda real, fake: F.softplus(-real) + F.softplus(fake), lambda fake, real: -F.softplus(fake), smooth=True
)
"""-log s(real) - log(1 - s(fake)); log(1 - s(fake)), s the sigmoid of the score (Goodfellow et al. 2014, arXiv
1406.2661, equation 1)."""

NONSATURATING = Adversarial(MINIMAX.discriminator, lambda fake, real: F.softplus(-fake), smooth=True)
"""As minimax for D; -log s(fake), whose gradient does not vanish where D is sure (the same paper, section 3)."""

LSGAN = Adversarial(
    lambda real, fake: 0.5 * ((real - 1).square() + fake.square()), lambda fake, real: 0.5 * (fake - 1).square()
)
"""(D(real) - 1)^2 / 2 + D(fake)^2 / 2; (D(fake) - 1)^2 / 2 (Mao et al. 2017, arXiv 1611.04076, equation 9)."""

HINGE = Adversarial(lambda real, fake: F.relu(1 - real) + F.relu(1 + fake), lambda fake, real: -fake)
"""max(0, 1 - D(real)) + max(0, 1 + D(fake)); -D(fake) (Lim and Ye 2017, arXiv 1705.02894; Miyato et al. 2018,
arXiv 1802.05957, equations 16 and 17)."""

RELATIVISTIC = Adversarial(
    lambda real, fake: F.softplus(fake - real), lambda fake, real: F.softplus(real - fake), paired=True
)
"""-log s(D(real) - D(fake)) of pairs, and with both changed about for G (Jolicoeur-Martineau 2019, arXiv 1807.00734,
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


@dataclass(frozen=True)
class Loss:
    """What both networks minimise: an adversarial loss with any of the penalties, and label terms.

    The discriminator minimises, averaged over the batch, its adversarial loss and

        lambda (|grad D(mixed)| - gamma)^2 / gamma^2    gp: Gulrajani et al. 2017, arXiv 1704.00028, equation 3
        r1 / 2 |grad D(real)|^2                         Mescheder et al. 2018, arXiv 1801.04406, equation 9
        r2 / 2 |grad D(fake)|^2                         the same, equation 10
        epsilon D(real)^2                               drift: Karras et al. 2018, appendix A.1

    and with classes the cross-entropy of both reals and fakes (Odena et al. 2017). A weight of 0 leaves a term out.

    Args:
        full_resolution: the resolution whose pixels the gradients are taken by. The official code always feeds its
            discriminator full-size images: an image of r x r stands for one repeated R/r times in each direction,
            whose gradient norm is the native one times r/R. None takes the images' own pixels.
        penalty: lambda. target: gamma, 750 for CIFAR-10. drift: epsilon. label_weight: weight of the label terms.
        smoothing: what is taken from the real images' probability of 1 (one-sided label smoothing: Salimans et al.
            2016, arXiv 1606.03498, section 3.4), for losses that have one.
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

    @property
    def paired(self) -> bool:
        """Whether `generator` needs the reals."""
        return self.adversarial.paired

    def discriminator(
        self, critic: Critic, reals: Images, fakes: Images, mixing: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The discriminator's loss and what it is made of.

        Args:
            reals, fakes: [N, C, r, r] in [-1, 1], or a list of them by scale; mixing: [N, 1, 1, 1] in [0, 1];
            labels: class indices [N].

        Returns:
            "d_loss" (a differentiable scalar), and for the log the scalars "real_score", "fake_score" and, with a
            penalty, "grad_norm": at the mixed images, with r1 at the real, with r2 alone at the generated ones.
        """
        if bool(self.r1) == bool(self.r2):
            looks = (x.chunk(2) for x in self.look(critic, joined(reals, fakes), self.r1, batches=2))
            (real_scores, fake_scores), (real_logits, fake_logits), (real_squares, fake_squares) = looks
        else:  # in one pass the gradient would be of both
            real_scores, real_logits, real_squares = self.look(critic, reals, self.r1)
            fake_scores, fake_logits, fake_squares = self.look(critic, fakes, self.r2)
        loss, terms = self.adversarial.discriminator(real_scores, fake_scores), {}
        if self.smoothing:
            loss = loss + self.smoothing * real_scores  # softplus(x) - softplus(-x) = x
        for weight, squares in ((self.r2, fake_squares), (self.r1, real_squares)):
            if weight:
                loss, terms["grad_norm"] = loss + (weight / 2) * squares, squares.detach().sqrt()
        if self.penalty:
            terms["grad_norm"] = norms = self.gradient_norms(critic, between(reals, fakes, mixing))
            loss = loss + (norms - self.target).square() * (self.penalty / self.target**2)
        if self.drift:
            loss = loss + self.drift * real_scores.square()
        loss = loss.mean()
        if labels is not None:
            entropy = F.cross_entropy(real_logits, labels) + F.cross_entropy(fake_logits, labels)
            loss = loss + self.label_weight * entropy
        terms |= {"real_score": real_scores, "fake_score": fake_scores}
        return {"d_loss": loss} | {name: value.detach().mean() for name, value in terms.items()}

    def generator(
        self, critic: Critic, fakes: Images, labels: Tensor | None = None, reals: Images | None = None
    ) -> dict[str, Tensor]:
        """The generator's loss, with classes plus the cross-entropy of the fakes, as "g_loss".

        reals: as many as fakes, where the loss is paired.
        """
        scores, logits = critic(fakes)
        real_scores = scores
        if self.paired:
            assert reals is not None, "a paired loss needs them"
            with torch.no_grad():
                real_scores, _ = critic(reals)
        loss = self.adversarial.generator(scores, real_scores).mean()
        if labels is not None:
            loss = loss + self.label_weight * F.cross_entropy(logits, labels)
        return {"g_loss": loss}

    def look(self, critic: Critic, images: Images, weight: float, batches: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [N], label logits [N, L], and where there is a weight the square norms of the gradients [N]."""
        if not weight:
            scores, logits = critic(images, batches=batches)
            return scores, logits, torch.zeros_like(scores)
        images = leaves(images)
        scores, logits = critic(images, batches=batches)
        return scores, logits, self.square_norms(scores, images)

    def gradient_norms(self, critic: Critic, images: Images) -> Tensor:
        """|grad D(x)| of each image [N] over all scales, differentiable by the critic's weights."""
        images = leaves(images)
        return self.square_norms(critic(images)[0], images).sqrt()

    def square_norms(self, scores: Tensor, images: Images) -> Tensor:
        """|grad scores|^2 by the leaves that they were computed of [N]; pixels of every scale count alike."""
        scales = as_list(images)
        first, *others = [g.square().sum(dim=(1, 2, 3)) for g in input_gradients(scores, scales)]
        total = sum(others, first)
        return total * (1 if self.full_resolution is None else (scales[-1].shape[-1] / self.full_resolution) ** 2)


def as_list(images: Images) -> list[Tensor]:
    """One tensor, or several, as a list."""
    return images if isinstance(images, list) else [images]


def leaves(images: Images) -> Images:
    """The same values, to take gradients by."""
    parts = [x.detach().requires_grad_(True) for x in as_list(images)]
    return parts if isinstance(images, list) else parts[0]


def joined(reals: Images, fakes: Images) -> Images:
    """Both in one batch, the reals first, at every scale."""
    batches = [torch.cat(pair) for pair in zip(as_list(reals), as_list(fakes), strict=True)]
    return batches if isinstance(reals, list) else batches[0]


def between(reals: Images, fakes: Images, mixing: Tensor) -> Images:
    """Points on the lines from reals to fakes, at the same place of the line in every scale."""
    points = [torch.lerp(real, fake, mixing) for real, fake in zip(as_list(reals), as_list(fakes), strict=True)]
    return points if isinstance(reals, list) else points[0]


def WGANGP(
    full_resolution: int, penalty: float = 10.0, target: float = 1.0, drift: float = 0.001, label_weight: float = 1.0
) -> Loss:
    """The paper's loss (section 4, appendix A.1); arguments as of `Loss`."""
    return Loss(
        WASSERSTEIN, full_resolution, penalty=penalty, target=target, drift=drift, label_weight=label_weight
    )  # fmt: skip


def objective(config: TrainConfig) -> Loss:
    """The loss that the options name, which `resolve` has settled."""
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
    )


def cautions(config: TrainConfig) -> list[str]:
    """What is known to go wrong with the options together, a sentence each."""
    loss, penalty = f"--loss {config.loss}", f"--penalty {config.penalty}"
    found = []
    if config.loss == "minimax":
        found.append(f"{loss} saturates: G gets almost no gradient while D is sure; nonsaturating keeps it")
    if config.loss.startswith("wgan") and config.penalty == "none":
        found.append(f"{loss} {penalty} bounds D's slope by nothing: its scores run away; give --penalty gp or clip")
    if config.loss == "relativistic" and config.penalty == "none":
        found.append(f"{loss} {penalty} need not converge (Huang et al. 2024, section 2); give --penalty r1+r2")
    if config.loss == "relativistic" and config.penalty in ("r1", "r2"):
        found.append(f"{loss} {penalty} may diverge early in training, where r1+r2 does not (Huang et al. 2024)")
    if config.penalty == "clip" and not config.loss.startswith("wgan"):
        found.append(f"{penalty} is meant for --loss wgan; elsewhere it keeps D from being sure, and gradients small")
    if config.penalty == "clip" and config.optimizer == "adam":
        found.append(f"{penalty} is unstable with Adam's momentum and quick steps; --preset wgan has RMSprop's")
    if config.arch == "dcgan" and config.penalty not in ("none", "clip"):
        found.append(
            f"--arch dcgan {penalty}: through batch norm a gradient is of the whole batch, not of each image "
            "(Gulrajani et al. 2017, section 4); the penalty means less"
        )
    return [f"caution: {sentence}" for sentence in found]
