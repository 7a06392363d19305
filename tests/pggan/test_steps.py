import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from pggan.config import resolve_config
from pggan.metrics.cpu_trial import run_apart
from pggan.networks.layers import Equalized, SharedKernels, downscale, upscale
from pggan.training import steps
from pggan.training.batch import Batch
from pggan.training.device import compute_in_bf16
from pggan.training.growth import Phase
from pggan.training.losses import ADVERSARIAL, WGANGP, Loss
from pggan.training.ranks import SINGLE_PROCESS
from pggan.training.state import TrainState, draw_latents, random_generator
from pggan.training.steps import Stepper, fade, update_ema

OPTIONS = {"data": "synthetic", "channels": 3, "resolution": 8, "fmap_base": 32, "fmap_max": 8, "batch_size": 8}
FADING = Phase(resolution=8, alpha=0.5, batch_size=8, lr=0.001, tick_images=1)


def make_state(labels=0, **options):
    return TrainState(resolve_config(OPTIONS | options), labels, torch.device("cpu"))


def make_stepper(**options):
    return Stepper(**{"loss": WGANGP(8), "seed": 0, "mirror": False, "ema_decay": 0.9} | options)


def make_batch(labels=0, resolution=8, count=8):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, resolution, resolution), dtype=np.uint8))
    return Batch(images, torch.arange(count) % labels if labels else None, SINGLE_PROCESS.share(count, 4))


def copy_weights(network):
    return [p.detach().clone() for p in network.parameters()]


def test_moments_of_any_memory_layout_continue_the_same_run():
    state, other = make_state(), make_state()
    make_stepper().step(state, make_batch(), FADING)
    saved = copy.deepcopy(state.state_dict())
    for name in ("g_optimizer", "d_optimizer"):
        for moments in saved[name]["state"].values():
            moments.update({key: value.contiguous() for key, value in moments.items()})
    other.load_state_dict(saved)
    for each in (state, other):
        make_stepper().step(each, make_batch(), FADING)
    for name in ("G", "D"):
        weights = zip(copy_weights(getattr(state, name)), copy_weights(getattr(other, name)), strict=True)
        assert all(torch.equal(a, b) for a, b in weights), name


def test_a_step_trains_both_networks_updates_the_ema_and_counts_the_images():
    state = make_state()
    before = {name: copy_weights(getattr(state, name)) for name in ("G", "D", "G_ema")}
    make_stepper().step(state, make_batch(), FADING)
    assert (state.images, state.counts["g_loss"]) == (8, 1)
    for name, old in before.items():
        assert any(not torch.equal(a, b) for a, b in zip(old, copy_weights(getattr(state, name)), strict=True)), name
    changed = zip(copy_weights(state.G_ema), before["G_ema"], copy_weights(state.G), strict=True)
    assert all(torch.allclose(ema, 0.9 * old + 0.1 * new, atol=1e-6) for ema, old, new in changed)
    assert {
        *("d_loss", "g_loss", "real_score", "fake_score", "grad_norm", "skipped", "d_gradient", "g_gradient")
    } == state.sums.keys()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_steps_with_non_finite_gradients_are_skipped_and_counted(bad):
    state = make_state()
    with torch.no_grad():
        state.D.output.bias.fill_(bad)
    before, old = copy_weights(state.D), copy_weights(state.G)
    for _ in range(3):
        make_stepper().step(state, make_batch(), FADING)
    assert state.skipped_in_a_row.tolist() == [3, 3] and state.sums["skipped"] == 6
    assert all(torch.equal(a, b) or not b.isfinite().all() for a, b in zip(before, copy_weights(state.D), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(old, copy_weights(state.G), strict=True))
    assert all(p.isfinite().all() for p in state.G_ema.parameters())
    with torch.no_grad():
        state.D.output.bias.zero_()
    make_stepper().step(state, make_batch(), FADING)
    assert state.skipped_in_a_row.tolist() == [0, 0]


def test_a_step_depends_only_on_the_seed_and_the_images_seen():
    first, second, other = make_state(), make_state(), make_state()
    torch.manual_seed(1)
    make_stepper().step(first, make_batch(), FADING)
    torch.manual_seed(2)
    make_stepper().step(second, make_batch(), FADING)
    make_stepper(seed=1).step(other, make_batch(), FADING)
    assert all(torch.equal(a, b) for a, b in zip(copy_weights(first.G), copy_weights(second.G), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(copy_weights(first.G), copy_weights(other.G), strict=True))


def test_labels_train_the_classifier():
    state = make_state(labels=4)
    make_stepper().step(state, make_batch(labels=4), FADING)
    assert state.D.output.weight.grad[1:].abs().sum() > 0


@pytest.mark.skipif(not run_apart(compute_in_bf16), reason="this machine's cpu cannot compute in bf16")
def test_bf16_stays_close_to_fp32():
    fp32, bf16 = make_state(), make_state()
    make_stepper().step(fp32, make_batch(), FADING)
    make_stepper(bf16=True).step(bf16, make_batch(), FADING)
    for name in ("d_loss", "g_loss", "real_score", "grad_norm"):
        assert bf16.sums[name].item() == pytest.approx(fp32.sums[name].item(), rel=0.05, abs=0.05)


def test_reals_are_faded_like_the_fakes():
    x = torch.rand(2, 3, 8, 8)
    assert torch.allclose(fade(x, torch.tensor(0.25)), 0.75 * upscale(downscale(x)) + 0.25 * x)
    assert fade(x, 1.0) is x


def test_reals_are_in_range_and_half_of_them_mirrored():
    images = torch.arange(256, dtype=torch.uint8).view(64, 1, 2, 2)
    reals = Batch(images, None, SINGLE_PROCESS.share(64, 4))
    state, stage = make_state(), {"resolution": 2, "alpha": 1.0}
    plain = make_stepper().prepare_reals(state, stage, reals, "augmented reals")
    assert plain.min() == -1 and plain.max() == 1
    stepper = make_stepper(mirror=True)
    drawn = replace(reals, noise=stepper.draw_noise(state, reals, ["reals"]))
    mirrored = stepper.prepare_reals(state, stage, drawn, "augmented reals")
    flipped = [bool((m != p).any()) for m, p in zip(mirrored, plain, strict=True)]
    assert 16 < sum(flipped) < 48
    assert all(torch.equal(m, p.flip(2) if f else p) for m, p, f in zip(mirrored, plain, flipped, strict=True))


@pytest.mark.parametrize("options", [{}, {"fused_scale": False}, {"arch": "msg"}])
def test_passes_that_share_kernels_give_the_same_gradients(options, monkeypatch):
    """They do on a GPU; here a CPU is made to."""
    gradients = []
    for share in (lambda network: None, SharedKernels):
        monkeypatch.setattr(steps, "share_kernels", share)
        state = make_state(optimizer="sgd", **options)
        make_stepper().step(state, make_batch(), replace(FADING, micro_batch=4))
        gradients.append([p.grad for network in (state.G, state.D) for p in network.parameters()])
        assert all(layer.shared is None for layer in state.D.modules() if isinstance(layer, Equalized))
    assert all((a is None) == (b is None) for a, b in zip(*gradients, strict=True))
    pairs = [(a, b) for a, b in zip(*gradients, strict=True) if a is not None]
    assert len(pairs) > 10 and all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in pairs)


def test_ema_follows_its_decay():
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    expected = 0.75 * a.weight.detach() + 0.25 * b.weight.detach()
    update_ema(a, b, 0.75)
    assert torch.allclose(a.weight, expected)


def test_random_draws_differ_by_seed_images_and_purpose():
    draws = {
        random_generator(s, i, p).random() for s in (0, 1) for i in (0, 8) for p in ("d latents", "g latents", "mixing")
    }
    assert len(draws) == 12
    assert torch.equal(draw_latents(0, 8, "d latents", 4, 3), draw_latents(0, 8, "d latents", 4, 3))


def test_state_round_trips_through_state_dict():
    state, twin = make_state(), make_state(seed=5)
    for _ in range(3):
        make_stepper().step(state, make_batch(), FADING)
    twin.load_state_dict(copy.deepcopy(state.state_dict()))
    for s in (state, twin):
        make_stepper().step(s, make_batch(), FADING)
    for name in ("G", "D", "G_ema"):
        assert all(
            torch.equal(a, b)
            for a, b in zip(copy_weights(getattr(state, name)), copy_weights(getattr(twin, name)), strict=True)
        )
    assert state.images == twin.images and state.sums["d_loss"] == twin.sums["d_loss"]


def test_the_generator_trains_at_every_nth_step():
    trained = []
    state, one_in_three = make_state(), make_stepper(n_critic=3)
    for _ in range(7):
        old = copy_weights(state.G), copy_weights(state.G_ema)
        one_in_three.step(state, make_batch(), FADING)
        new = copy_weights(state.G), copy_weights(state.G_ema)
        changed = [
            any(not torch.equal(a, b) for a, b in zip(*pair, strict=True)) for pair in zip(old, new, strict=True)
        ]
        assert changed[0] == changed[1]
        trained.append(changed[0])
    assert trained == [False, False, True, False, False, True, False]
    assert state.counts["g_loss"] == 2 and state.counts["d_loss"] == 7
    assert state.average_sums()["g_loss"] == pytest.approx(state.sums["g_loss"].item() / 2)


@pytest.mark.parametrize("penalties", [{"penalty": 10.0}, {"r1": 2.0, "r2": 2.0}, {"r1": 2.0}])
def test_a_lazy_penalty_is_part_of_every_nth_step_at_n_times_its_weight(penalties, monkeypatch):
    calls, norms = [], Loss.squared_gradient_norms
    monkeypatch.setattr(Loss, "squared_gradient_norms", lambda *args: calls.append(args) or norms(*args))
    lazy, loss = make_state(), Loss(ADVERSARIAL["hinge"], 8, **penalties)
    for images in (0, 8, 16, 24):
        plain = make_state()
        plain.load_state_dict(copy.deepcopy(lazy.state_dict()))
        calls.clear()
        make_stepper(loss=loss, penalty_every=3).step(lazy, make_batch(), FADING)
        assert len(calls) == (images in (0, 24))  # the other steps differentiate no image
        factor = 3 if images in (0, 24) else 0
        weights = {name: weight * factor for name, weight in penalties.items()}
        make_stepper(loss=replace(loss, **weights)).step(plain, make_batch(), FADING)
        assert all(torch.equal(a, b) for a, b in zip(copy_weights(lazy.D), copy_weights(plain.D), strict=True))
    assert lazy.counts["grad_norm"] == 2 and lazy.counts["d_loss"] == 4
    assert lazy.average_sums()["grad_norm"] == pytest.approx(lazy.sums["grad_norm"].item() / 2)


def test_which_steps_have_a_lazy_penalty_depends_on_the_images_seen_alone():
    stepper = make_stepper(penalty_every=4)
    assert [stepper.is_penalty_step(images, 8) for images in range(32, 72, 8)] == [True, False, False, False, True]


@pytest.mark.parametrize("n_critic", [1, 2])
def test_a_failing_generator_is_counted_even_if_it_trains_rarely(n_critic):
    state = make_state()
    for _ in range(4):
        with torch.no_grad():
            state.D.output.bias.fill_(float("nan"))
        make_stepper(n_critic=n_critic).step(state, make_batch(), FADING)
    assert state.skipped_in_a_row.tolist() == [4, 4 / n_critic]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "sgd"])
def test_each_optimizer_uses_its_learning_rate_and_skips_bad_steps(optimizer):
    state = make_state(optimizer=optimizer)
    make_stepper().step(state, make_batch(), replace(FADING, d_lr=0.002))
    assert state.g_optimizer.param_groups[0]["lr"] == 0.001 and state.d_optimizer.param_groups[0]["lr"] == 0.002
    with torch.no_grad():
        state.D.output.bias.fill_(float("nan"))
    before = copy_weights(state.G)
    make_stepper().step(state, make_batch(), FADING)
    assert all(torch.equal(a, b) for a, b in zip(before, copy_weights(state.G), strict=True))


def test_clipping_bounds_the_discriminators_scaled_weights():
    state = make_state(loss="wgan")
    make_stepper(loss=Loss(ADVERSARIAL["wgan"]), clip=0.01).step(state, make_batch(), FADING)
    used = [m.scaled_weight().detach().abs().max().item() for m in state.D.modules() if isinstance(m, Equalized)]
    assert max(used) == pytest.approx(0.01, rel=1e-4)
    assert all(m.bias.abs().max() <= 0.01 for m in state.D.modules() if isinstance(m, Equalized))


def test_checkpoints_without_counts_still_resume():
    state, twin = make_state(), make_state()
    make_stepper().step(state, make_batch(), FADING)
    old = state.state_dict()
    del old["counts"]
    twin.load_state_dict(old | {"steps": 1})
    assert twin.average_sums() == state.average_sums()
