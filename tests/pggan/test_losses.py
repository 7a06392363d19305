"""Compare every loss and penalty with its formula, on critics with known gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pggan.config import ConfigError, TrainConfig, resolve_config
from pggan.networks.layers import downscale
from pggan.training.losses import ADVERSARIAL, WGANGP, Loss, build_loss, find_cautions, scale_consistency


def make_linear_critic(weight, labels=0):
    """Return the critic D(x) = <w, x>, with gradient w everywhere."""

    def critic(images, batches=1):
        scores = images.flatten(1) @ weight
        return scores, torch.stack([scores * (i + 1) for i in range(labels)], 1) if labels else scores[:, None][:, :0]

    return critic


def draw_inputs(resolution=4):
    torch.manual_seed(0)
    shape = (8, 3, resolution, resolution)
    return torch.randn(shape), torch.randn(shape), torch.rand(8, 1, 1, 1)


@pytest.mark.parametrize("full_resolution, target", [(4, 1.0), (16, 1.0), (4, 750.0)])
def test_discriminator_loss_matches_the_formula(full_resolution, target):
    reals, fakes, mixing = draw_inputs()
    weight = torch.randn(48)
    loss = WGANGP(full_resolution, penalty=10, target=target, drift=0.001)
    terms = loss.discriminator_loss(make_linear_critic(weight), reals, fakes, mixing)
    real, fake = reals.flatten(1) @ weight, fakes.flatten(1) @ weight
    norm = weight.norm() * 4 / full_resolution
    expected = fake.mean() - real.mean() + 10 * (norm - target) ** 2 / target**2 + 0.001 * real.square().mean()
    assert terms["d_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
    assert terms["real_score"].item() == pytest.approx(real.mean().item(), rel=1e-5)


def test_generator_loss_is_the_negative_score():
    _, fakes, _ = draw_inputs()
    weight = torch.randn(48)
    terms = WGANGP(4).generator_loss(make_linear_critic(weight), fakes)
    assert terms["g_loss"].item() == pytest.approx(-(fakes.flatten(1) @ weight).mean().item(), rel=1e-5)


def test_label_terms_are_weighted_cross_entropies():
    reals, fakes, mixing = draw_inputs()
    critic, labels = make_linear_critic(torch.randn(48), labels=5), torch.arange(8) % 5
    with_labels, without = WGANGP(4, label_weight=2.0), WGANGP(4)
    difference = (
        with_labels.discriminator_loss(critic, reals, fakes, mixing, labels)["d_loss"]
        - without.discriminator_loss(critic, reals, fakes, mixing)["d_loss"]
    )
    entropy = F.cross_entropy(critic(reals)[1], labels) + F.cross_entropy(critic(fakes)[1], labels)
    assert difference.item() == pytest.approx(2 * entropy.item(), rel=1e-4)
    difference = (
        with_labels.generator_loss(critic, fakes, labels)["g_loss"] - without.generator_loss(critic, fakes)["g_loss"]
    )
    assert difference.item() == pytest.approx(2 * F.cross_entropy(critic(fakes)[1], labels).item(), rel=1e-4)


def test_the_penalty_trains_the_critic():
    weight = torch.randn(48, requires_grad=True)
    norms = WGANGP(8).gradient_norms(make_linear_critic(weight), torch.randn(2, 3, 4, 4))
    norms.sum().backward()
    assert torch.allclose(weight.grad, 2 * 0.5 * weight.detach() / weight.detach().norm())


def sigmoid(score):
    return 1 / (1 + np.exp(-score))


FORMULAS = {  # loss: (discriminator's, generator's), of numpy scores, written as in the papers
    "wgan-gp": (lambda r, f: f - r, lambda f, r: -f),
    "wgan": (lambda r, f: f - r, lambda f, r: -f),
    "minimax": (
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f, r: np.log(1 - sigmoid(f)),
    ),
    "nonsaturating": (
        lambda r, f: -np.log(sigmoid(r)) - np.log(1 - sigmoid(f)),
        lambda f, r: -np.log(sigmoid(f)),
    ),
    "lsgan": (lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2, lambda f, r: 0.5 * (f - 1) ** 2),
    "hinge": (lambda r, f: -np.minimum(0, r - 1) - np.minimum(0, -f - 1), lambda f, r: -f),
    "relativistic": (lambda r, f: -np.log(sigmoid(r - f)), lambda f, r: -np.log(sigmoid(f - r))),
}


def draw_double_inputs(resolution=4):
    reals, fakes, mixing = (x.double() for x in draw_inputs(resolution))
    return reals, fakes, mixing, torch.randn(48, dtype=torch.float64)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_both_losses_match_the_papers_formulas(name):
    reals, fakes, mixing, weight = draw_double_inputs()
    loss, critic = Loss(ADVERSARIAL[name]), make_linear_critic(weight / 3)
    real, fake = (critic(x)[0].numpy() for x in (reals, fakes))
    d_formula, g_formula = FORMULAS[name]
    terms = loss.discriminator_loss(critic, reals, fakes, mixing)
    assert terms["d_loss"].item() == pytest.approx(d_formula(real, fake).mean(), rel=1e-12)
    boundary = {"minimax": 0, "nonsaturating": 0, "hinge": 0, "lsgan": 0.5}.get(name)
    if boundary is not None:
        assert terms.pop("real_sign").item() == pytest.approx(np.sign(real - boundary).mean())
    assert terms.keys() == {"d_loss", "real_score", "fake_score"}
    assert loss.generator_loss(critic, fakes, reals=reals)["g_loss"].item() == pytest.approx(
        g_formula(fake, real).mean(), rel=1e-12
    )


def quadratic_critic(images, batches=1):
    """Score images by D(x) = |x|^2 / 2, with gradient x."""
    scores = images.square().sum(dim=(1, 2, 3)) / 2
    return scores, scores[:, None][:, :0]


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_penalties_are_added_to_every_loss(name):
    reals, fakes, mixing, _ = draw_double_inputs()
    plain = Loss(ADVERSARIAL[name]).discriminator_loss(quadratic_critic, reals, fakes, mixing)["d_loss"].item()
    mixed = reals + mixing * (fakes - reals)
    norms = [x.square().sum(dim=(1, 2, 3)).sqrt().numpy() for x in (reals, fakes, mixed)]
    loss = Loss(ADVERSARIAL[name], penalty=3.0, target=2.0, r1=5.0, r2=7.0, drift=0.1)
    expected = plain + np.mean(5 / 2 * norms[0] ** 2 + 7 / 2 * norms[1] ** 2 + 3 * (norms[2] - 2) ** 2 / 2**2)
    expected += 0.1 * quadratic_critic(reals)[0].square().mean().item()
    terms = loss.discriminator_loss(quadratic_critic, reals, fakes, mixing)
    assert terms["d_loss"].item() == pytest.approx(expected, rel=1e-12)
    assert terms["grad_norm"].item() == pytest.approx(norms[2].mean(), rel=1e-12)
    halved = Loss(ADVERSARIAL[name], full_resolution=8, r1=5.0)
    terms = halved.discriminator_loss(quadratic_critic, reals, fakes, mixing)
    assert terms["d_loss"].item() == pytest.approx(plain + np.mean(5 / 2 * (norms[0] / 2) ** 2), rel=1e-12)
    assert terms["grad_norm"].item() == pytest.approx(norms[0].mean() / 2, rel=1e-12)
    terms = Loss(ADVERSARIAL[name], r2=7.0).discriminator_loss(quadratic_critic, reals, fakes, mixing)
    assert terms["d_loss"].item() == pytest.approx(plain + np.mean(7 / 2 * norms[1] ** 2), rel=1e-12)
    assert terms["grad_norm"].item() == pytest.approx(norms[1].mean(), rel=1e-12)


def test_r1_of_a_flat_critic_has_a_finite_gradient():
    weight = torch.zeros(48, requires_grad=True)
    reals, fakes, mixing = draw_inputs()
    terms = Loss(ADVERSARIAL["hinge"], r1=1.0, r2=1.0).discriminator_loss(
        make_linear_critic(weight), reals, fakes, mixing
    )
    terms["d_loss"].backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["minimax", "nonsaturating"])
def test_only_the_real_target_is_smoothed(name):
    reals, fakes, mixing, weight = draw_double_inputs()
    critic = make_linear_critic(weight / 3)
    real, fake = (critic(x)[0].numpy() for x in (reals, fakes))
    smoothed = Loss(ADVERSARIAL[name], smoothing=0.1).discriminator_loss(critic, reals, fakes, mixing)
    expected = -0.9 * np.log(sigmoid(real)) - 0.1 * np.log(1 - sigmoid(real)) - np.log(1 - sigmoid(fake))
    assert smoothed["d_loss"].item() == pytest.approx(expected.mean(), rel=1e-12)


def test_penalties_are_averaged_over_scales():
    torch.manual_seed(0)
    reals, fakes = ([torch.randn(8, 3, r, r, dtype=torch.float64) for r in (4, 8)] for _ in range(2))
    mixing = torch.rand(8, 1, 1, 1, dtype=torch.float64)

    def critic(images, batches=1):
        scores = sum(quadratic_critic(x)[0] for x in images)
        return scores, scores[:, None][:, :0]

    mixed = [r + mixing * (f - r) for r, f in zip(reals, fakes, strict=True)]
    norms = {
        name: [x.square().sum(dim=(1, 2, 3)).sqrt() for x in scales]
        for name, scales in (("mixed", mixed), ("real", reals), ("fake", fakes))
    }
    without = Loss(ADVERSARIAL["wgan"]).discriminator_loss(critic, reals, fakes, mixing)["d_loss"].item()
    loss = Loss(ADVERSARIAL["wgan"], full_resolution=8, penalty=3.0, target=2.0, r1=5.0, r2=7.0)
    terms = loss.discriminator_loss(critic, reals, fakes, mixing)
    expected = np.mean(
        [
            [(3 * (norms["mixed"][i] - 2) ** 2 / 2**2).mean() for i in range(2)],
            [(5 / 2 * norms["real"][i] ** 2).mean() for i in range(2)],
            [(7 / 2 * norms["fake"][i] ** 2).mean() for i in range(2)],
        ],
        axis=1,
    ).sum()
    assert terms["d_loss"].item() == pytest.approx(without + expected, rel=1e-12)
    assert terms["grad_norm"].item() == pytest.approx(torch.stack(norms["mixed"]).mean().item(), rel=1e-12)


def test_scale_consistency_pulls_lower_scales_to_the_final_image():
    torch.manual_seed(0)
    largest = torch.randn(2, 3, 16, 16, requires_grad=True)
    aligned = [downscale(downscale(largest)), downscale(largest)]
    assert scale_consistency([*aligned, largest]).item() == 0
    moved = [x.detach() + shift for x, shift in zip(aligned, (1.0, 3.0), strict=True)]
    moved = [x.requires_grad_(True) for x in moved]
    distance = scale_consistency([*moved, largest])
    assert distance.item() == pytest.approx((1**2 + 3**2) / 2, rel=1e-5)
    distance.backward()
    assert largest.grad is None and all((x.grad > 0).all() for x in moved)


def test_scale_consistency_is_part_of_the_generators_loss():
    options = {"data": "synthetic", "resolution": 8, "channels": 3, "arch": "msg"}
    loss = build_loss(resolve_config(options | {"scale_consistency": 2.0}))
    fakes = [torch.randn(2, 3, r, r) for r in (4, 8)]

    def critic(images, batches=1):
        return torch.zeros(2), torch.zeros(2, 0)

    expected = 2 * (fakes[0] - downscale(fakes[1])).square().mean().item()
    assert loss.generator_loss(critic, fakes)["g_loss"].item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConfigError, match=r"--scale-consistency needs .* --arch msg"):
        TrainConfig(scale_consistency=1.0)


def test_generator_gets_gradients_through_generated_images_only():
    reals, fakes, _ = draw_inputs()
    fakes.requires_grad_(True)
    reals.requires_grad_(True)
    loss = Loss(ADVERSARIAL["relativistic"])
    loss.generator_loss(make_linear_critic(torch.randn(48)), fakes, reals=reals)["g_loss"].backward()
    assert loss.needs_reals and fakes.grad.abs().sum() > 0 and reals.grad is None


def test_each_loss_has_a_default_penalty():
    options = {"data": "synthetic", "resolution": 16, "channels": 3}
    paper = build_loss(resolve_config(options))
    assert paper == WGANGP(16)
    relativistic = build_loss(resolve_config(options | {"loss": "relativistic"}))
    assert (relativistic.r1, relativistic.r2, relativistic.penalty, relativistic.drift) == (10, 10, 0, 0)
    native = build_loss(resolve_config(options | {"penalty_pixels": "native", "loss": "lsgan", "penalty": "gp"}))
    assert (native.full_resolution, native.penalty) == (None, 10)
    assert build_loss(resolve_config(options | {"loss": "wgan"})).penalty == 0


def test_smoothing_a_loss_without_probabilities_is_rejected():
    with pytest.raises(ConfigError, match=r"--label-smoothing needs .*: use --loss minimax or nonsaturating"):
        TrainConfig(label_smoothing=0.1)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"loss": "minimax"}, "saturates"),
        ({"loss": "wgan", "penalty": "none"}, "scores diverge"),
        ({"loss": "relativistic", "penalty": "none"}, "may not converge"),
        ({"loss": "relativistic", "penalty": "r1"}, "may diverge"),
        ({"loss": "hinge", "penalty": "clip", "optimizer": "rmsprop", "arch": "dcgan"}, "meant for --loss wgan"),
        ({"loss": "wgan", "arch": "dcgan"}, "RMSprop"),
        ({"loss": "wgan", "optimizer": "rmsprop"}, "use --preset wgan"),
    ],
)
def test_unstable_combinations_trigger_a_warning(options, word):
    (sentence,) = find_cautions(TrainConfig(**options))
    assert word in sentence and "\n" not in sentence


def test_the_papers_options_trigger_no_warning():
    assert find_cautions(TrainConfig()) == []
