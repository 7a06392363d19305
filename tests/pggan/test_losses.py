"""WGAN-GP against its formula, on critics whose gradient is known."""

import pytest
import torch
import torch.nn.functional as F

from pggan.training.losses import WGANGP


def linear_critic(weight, labels=0):
    """D(x) = <w, x>: its gradient is w everywhere."""

    def critic(images):
        scores = images.flatten(1) @ weight
        return scores, torch.stack([scores * (i + 1) for i in range(labels)], 1) if labels else scores[:, None][:, :0]

    return critic


def inputs(resolution=4):
    torch.manual_seed(0)
    shape = (8, 3, resolution, resolution)
    return torch.randn(shape), torch.randn(shape), torch.rand(8, 1, 1, 1)


@pytest.mark.parametrize("full_resolution, target", [(4, 1.0), (16, 1.0), (4, 750.0)])
def test_discriminator_loss_is_the_formula(full_resolution, target):
    reals, fakes, mixing = inputs()
    weight = torch.randn(48)
    loss = WGANGP(full_resolution, penalty=10, target=target, drift=0.001)
    terms = loss.discriminator(linear_critic(weight), reals, fakes, mixing)
    real, fake = reals.flatten(1) @ weight, fakes.flatten(1) @ weight
    norm = weight.norm() * 4 / full_resolution
    expected = fake.mean() - real.mean() + 10 * (norm - target) ** 2 / target**2 + 0.001 * real.square().mean()
    assert terms["d_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    assert terms["real_score"].item() == pytest.approx(real.mean().item(), rel=1e-5)


def test_generator_loss_is_minus_the_score():
    _, fakes, _ = inputs()
    weight = torch.randn(48)
    terms = WGANGP(4).generator(linear_critic(weight), fakes)
    assert terms["g_loss"].item() == pytest.approx(-(fakes.flatten(1) @ weight).mean().item(), rel=1e-5)


def test_label_terms_are_cross_entropies_with_their_weight():
    reals, fakes, mixing = inputs()
    critic, labels = linear_critic(torch.randn(48), labels=5), torch.arange(8) % 5
    with_labels, without = WGANGP(4, label_weight=2.0), WGANGP(4)
    difference = (
        with_labels.discriminator(critic, reals, fakes, mixing, labels)["d_loss"]
        - without.discriminator(critic, reals, fakes, mixing)["d_loss"]
    )
    entropy = F.cross_entropy(critic(reals)[1], labels) + F.cross_entropy(critic(fakes)[1], labels)
    assert difference.item() == pytest.approx(2 * entropy.item(), rel=1e-4)
    difference = with_labels.generator(critic, fakes, labels)["g_loss"] - without.generator(critic, fakes)["g_loss"]
    assert difference.item() == pytest.approx(2 * F.cross_entropy(critic(fakes)[1], labels).item(), rel=1e-4)


def test_the_penalty_trains_the_critic():
    weight = torch.randn(48, requires_grad=True)
    norms = WGANGP(8).gradient_norms(linear_critic(weight), torch.randn(2, 3, 4, 4))
    norms.sum().backward()
    assert torch.allclose(weight.grad, 2 * 0.5 * weight.detach() / weight.detach().norm())
