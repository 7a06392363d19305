"""WGAN-GP with drift, and the label terms of an auxiliary classifier (paper, section 4 and appendix A.1)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Critic = Callable[[Tensor], tuple[Tensor, Tensor]]  # images -> (scores [N], label logits [N, L])


@dataclass(frozen=True)
class WGANGP:
    """Wasserstein loss with gradient penalty and drift.

    The discriminator minimises, averaged over the batch,

        D(fake) - D(real) + lambda (|grad D(mixed)| - gamma)^2 / gamma^2 + epsilon D(real)^2

    (Gulrajani et al. 2017, equation 3; Karras et al. 2018, appendix A.1), and with classes the cross-entropy of both
    reals and fakes (Odena et al. 2017).

    Args:
        penalty: lambda. target: gamma, 750 for CIFAR-10. drift: epsilon. label_weight: weight of the label terms.
        full_resolution: the resolution that the run ends at. The gradient norm is taken by pixels of that size,
            as the official code does, which always feeds its discriminator full-size images: an image of r x r stands
            for one repeated R/r times in each direction, whose gradient norm is the native one times r/R.
    """

    full_resolution: int
    penalty: float = 10.0
    target: float = 1.0
    drift: float = 0.001
    label_weight: float = 1.0

    def discriminator(
        self, critic: Critic, reals: Tensor, fakes: Tensor, mixing: Tensor, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The discriminator's loss and what it is made of.

        Args:
            reals, fakes: [N, C, r, r] in [-1, 1]; mixing: [N, 1, 1, 1] in [0, 1]; labels: class indices [N].

        Returns:
            "d_loss" (a differentiable scalar), and for the log the scalars "real_score", "fake_score", "grad_norm".
        """
        real_scores, real_logits = critic(reals)
        fake_scores, fake_logits = critic(fakes)
        norms = self.gradient_norms(critic, torch.lerp(reals, fakes, mixing))
        loss = fake_scores - real_scores
        loss = loss + (norms - self.target).square() * (self.penalty / self.target**2)
        loss = loss + self.drift * real_scores.square()
        loss = loss.mean()
        if labels is not None:
            entropy = F.cross_entropy(real_logits, labels) + F.cross_entropy(fake_logits, labels)
            loss = loss + self.label_weight * entropy
        terms = {"real_score": real_scores, "fake_score": fake_scores, "grad_norm": norms}
        return {"d_loss": loss} | {name: value.detach().mean() for name, value in terms.items()}

    def gradient_norms(self, critic: Critic, images: Tensor) -> Tensor:
        """|grad D(x)| of each image [N], by full-resolution pixels, differentiable by the critic's weights."""
        images = images.detach().requires_grad_(True)
        scores, _ = critic(images)
        (gradients,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
        return gradients.square().sum(dim=(1, 2, 3)).sqrt() * (images.shape[-1] / self.full_resolution)

    def generator(self, critic: Critic, fakes: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's loss -D(fake), with classes plus the cross-entropy of the fakes, as "g_loss"."""
        scores, logits = critic(fakes)
        loss = -scores.mean()
        if labels is not None:
            loss = loss + self.label_weight * F.cross_entropy(logits, labels)
        return {"g_loss": loss}
