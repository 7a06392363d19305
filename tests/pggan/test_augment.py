import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_steps import FADING, copy_weights, make_batch, make_state, make_stepper

from pggan.config import ConfigError, resolve_config
from pggan.training.augment import (
    Augmentation,
    jitter_color,
    measure_overfitting,
    split_holdout,
    square_mask,
    translate,
)
from pggan.training.losses import build_loss

P = {p: torch.tensor(float(p)) for p in (0, 0.5, 1)}


def make_images(count=64, side=16, channels=3, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def augment(mode, x, p=1, seed=0):
    augmentation = Augmentation(mode)
    return augmentation(x, P[p], augmentation.draw(np.random.default_rng(seed), len(x), x.shape[-1]))


def differs(x, y):
    return (x != y).flatten(1).any(dim=1)


def test_mode_none_changes_nothing():
    x = make_images()
    assert augment("none", x) is x


def test_p_changes_ada_alone():
    x = make_images(64, 8)
    assert not differs(x, augment("ada", x, 0)).any() and differs(x, augment("ada", x, 1)).all()
    assert torch.equal(augment("diffaug", x, 0), augment("diffaug", x, 1))


def test_the_options_are_in_thousands_of_images():
    config = resolve_config({"data": "synthetic", "augment": "ada", "ada_kimg": 2, "holdout": 0.1, "repeats": 3})
    augmentation = Augmentation.from_config(config)
    assert (augmentation.speed, augmentation.every, augmentation.target) == (2000, 3, 0.5)


def test_augmentation_is_determined_by_the_seed():
    x = make_images()
    assert torch.equal(augment("diffaug", x, 1, 3), augment("diffaug", x, 1, 3))
    assert differs(augment("diffaug", x, 1, 3), augment("diffaug", x, 1, 4)).all()


@pytest.mark.parametrize("side", [4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_augmentation_keeps_the_shape_at_any_resolution_and_channel_count(side, channels):
    x = make_images(8, side, channels)
    assert augment("diffaug", x).shape == x.shape and augment("diffaug", x).isfinite().all()


def test_color_jitter_follows_the_paper():
    x = make_images(2, 4)
    one = torch.ones(2, 1, 1, 1)
    assert torch.allclose(jitter_color(x, one, 0.5 * one, 0.5 * one), x + 0.5, atol=1e-6)
    gray = jitter_color(x, 0.5 * one, 0 * one, 0.5 * one)
    assert torch.allclose(gray, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)
    mean = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(jitter_color(x, 0.5 * one, 0.5 * one, one), mean + 1.5 * (x - mean), atol=1e-6)


def test_translation_shifts_by_whole_pixels_and_pads_with_zeros():
    x = make_images(3, 8)
    shifts = torch.tensor([[1, 0, -1], [0, -1, 1]])
    y = translate(x, shifts, 1)
    assert torch.equal(y[0, :, 1:], x[0, :, :-1]) and (y[0, :, 0] == 0).all()
    assert torch.equal(y[1, :, :, :-1], x[1, :, :, 1:]) and (y[1, :, :, -1] == 0).all()
    assert torch.equal(y[2, :, :-1, 1:], x[2, :, 1:, :-1])


def test_translations_reach_an_eighth_of_the_side_in_each_direction():
    found = set()
    x = make_images(400, 16)
    y = augment("diffaug", torch.ones_like(x))
    for image in y[:, 0]:
        rows, columns = (image == 0).all(1), (image == 0).all(0)
        found.add((int(rows[:2].sum()), int(rows[-2:].sum()), int(columns[:2].sum()), int(columns[-2:].sum())))
    for side in range(4):
        assert {f[side] for f in found} == {0, 1, 2}


def test_cutout_is_half_the_side_and_clipped_at_the_edges():
    centers = torch.tensor([[4, 0, 8], [4, 0, 8]])
    mask = square_mask(centers, 8)[:, 0]
    assert mask[0].sum() == 16 and mask[0, 2:6, 2:6].all()
    assert mask[1].sum() == 4 and mask[1, :2, :2].all() and mask[2].sum() == 4 and mask[2, 6:, 6:].all()


def test_gradients_flow_through_the_augmentation():
    x = make_images(8, 8).requires_grad_(True)
    y = augment("diffaug", x)
    assert torch.autograd.gradcheck(
        lambda v: augment("diffaug", v),
        make_images(2, 4).double().requires_grad_(True),
    )
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient != 0).any(dim=1).flatten(1).any(dim=1).all()


def test_overfitting_is_zero_if_held_out_images_score_like_training_images_and_one_if_like_fakes():
    def measure(**scores):
        above, below = measure_overfitting({f"{name}_score": torch.tensor(score) for name, score in scores.items()})
        return above / below

    assert measure(real=3.0, held_out=3.0, fake=-5.0) == 0 and measure(real=3.0, held_out=-5.0, fake=-5.0) == 1
    assert measure(real=3.0, held_out=1.0, fake=-5.0) == measure(real=23.0, held_out=9.0, fake=-33.0) == 0.25
    assert measure_overfitting({"real_score": P[1], "fake_score": P[0]}) is None
    by_sign = measure_overfitting({"real_sign": P[0.5], "real_score": P[1], "held_out_score": P[0]})
    assert by_sign.tolist() == [0.5, 1.0]


def adapt(p, *measured, target=0.6, speed=1000, margins=(0.0, 0.0)):
    p, margins = torch.tensor(p), torch.tensor(margins)
    for values in measured:
        Augmentation("ada", target, speed).adapt(p, margins, torch.tensor(values), 100)
    return p.item(), margins.tolist()


def test_p_follows_the_sign_of_the_signal_and_stays_in_range():
    assert adapt(0.5, (0.7, 1.0))[0] == pytest.approx(0.6)
    assert adapt(0.5, (0.1, 1.0))[0] == pytest.approx(0.4)
    assert adapt(1.0, (9.0, 1.0))[0] == 1 and adapt(0.0, (0.0, 1.0))[0] == 0
    assert adapt(0.5, (-0.7, -1.0))[0] == pytest.approx(0.4)  # the critic scores generated images higher


def test_an_update_with_non_finite_scores_changes_neither_p_nor_the_signal():
    assert adapt(0.5, (float("nan"), 1.0), margins=(0.25, 0.5)) == (0.5, [0.25, 0.5])
    assert adapt(0.5, (0.0, float("inf")), margins=(0.25, 0.5)) == (0.5, [0.25, 0.5])


def test_the_signal_is_averaged_over_a_hundredth_of_the_images_in_which_p_can_rise_to_one():
    ada, p, margins = Augmentation("ada", speed=40_000), torch.tensor(0.5), torch.zeros(2)
    for _ in range(100):
        ada.adapt(p, margins, torch.tensor([2.0, 4.0]), 4)
    assert margins.tolist() == pytest.approx([2 * (1 - np.exp(-1)), 4 * (1 - np.exp(-1))], rel=1e-4)


def test_batches_of_four_do_not_raise_p_without_overfitting():
    """Scores with a standard deviation as large as the gap between real and generated images: r_v is 0 on average."""
    generator, augmentation = torch.Generator().manual_seed(0), Augmentation("ada", every=4)
    p, margins, rises = torch.tensor(0.5), torch.zeros(2), []
    for _ in range(2000):
        real, held_out, fake = torch.randn(3, 4, generator=generator).mean(dim=1)
        before = p.clone()
        augmentation.adapt(p, margins, torch.stack([real - held_out, real - (fake - 1)]), 4)
        rises.append(bool(p > before))
    assert sum(rises[100:]) == 0


@pytest.mark.parametrize(("loss", "target"), [("wgan-gp", 0.5), ("relativistic", 0.5), ("hinge", 0.6), ("lsgan", 0.6)])
def test_the_signal_and_its_target_depend_on_the_loss(loss, target):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "augment": "ada", "loss": loss})
    augmentation = Augmentation.from_config(config)
    assert (augmentation.target, augmentation.every) == (target, 4 if target == 0.5 else 1)
    state, loss = make_state(), build_loss(config)
    make_stepper(augment=replace(augmentation, speed=100), loss=loss).step(state, make_batch(), FADING)
    assert ("real_sign" in state.sums) == (target == 0.6) == bool(state.augment_signal[1] > 0)
    if target == 0.6:
        assert len(split_holdout(config, 100)[1]) == 0  # needs no held-out images


def train_steps(mode, steps=3, **options):
    state = make_state(**options)
    held_out = replace(make_batch(), images=make_batch().images.flip(0))
    for _ in range(steps):
        make_stepper(augment=Augmentation(mode, speed=100)).step(state, make_batch(), FADING, held_out)
    return state


@pytest.mark.parametrize("mode", ["diffaug", "ada"])
def test_augmented_steps_train_both_networks_and_are_deterministic(mode):
    first, second, plain = train_steps(mode), train_steps(mode), train_steps("none")
    for name in ("G", "D"):
        a, b, c = (copy_weights(getattr(state, name)) for state in (first, second, plain))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), name
        assert any(not torch.equal(x, y) for x, y in zip(a, c, strict=True)) == (
            mode == "diffaug" or first.augment_p > 0
        )


def test_all_critic_inputs_are_augmented(monkeypatch):
    state, inputs = make_state(), []
    forward = state.D.forward
    monkeypatch.setattr(state.D, "forward", lambda x, **stage: inputs.append(x.detach()) or forward(x, **stage))
    step = make_stepper(augment=Augmentation("diffaug"), seed=1)
    step.step(state, make_batch(), FADING, make_batch())
    held_out, both, mixed, g_fakes = inputs
    reals, fakes = both.chunk(2)
    stage = {"resolution": 8, "alpha": torch.tensor(0.5)}
    plain = make_stepper(seed=1).prepare_reals(make_state(), stage, make_batch(), "augmented reals")
    for x in (held_out, reals):
        assert differs(x, plain).all()
    assert differs(held_out, reals).all() and differs(fakes, g_fakes).all()
    for x in (reals, fakes):
        assert (x == 0).all(dim=1).flatten(1).sum(dim=1).min() >= 4  # the cutout
    between = torch.minimum(reals, fakes) - 1e-5 <= mixed
    assert (between & (mixed <= torch.maximum(reals, fakes) + 1e-5)).all()


def test_scoring_held_out_images_changes_only_the_log():
    scored, plain = make_state(), make_state()
    make_stepper().step(scored, make_batch(), FADING, make_batch())
    make_stepper().step(plain, make_batch(), FADING)
    for name in ("G", "D"):
        a, b = copy_weights(getattr(scored, name)), copy_weights(getattr(plain, name))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert {"seen_score", "held_out_score", "faked_score"} == scored.sums.keys() - plain.sums.keys()


def test_p_is_saved_with_the_state():
    state, twin = train_steps("ada", 4), make_state(seed=5)
    assert state.augment_p.shape == ()
    state.augment_p = torch.tensor(0.25)
    twin.load_state_dict(copy.deepcopy(state.state_dict()))
    assert twin.augment_p == 0.25
    assert torch.equal(twin.augment_signal, state.augment_signal) and state.augment_signal[1] != 0
    older = {k: v for k, v in state.state_dict().items() if k not in ("augment_p", "augment_signal")}
    fresh = make_state()
    fresh.load_state_dict(older)
    assert fresh.augment_p == 0 and (fresh.augment_signal == 0).all()


@pytest.mark.parametrize("loss", ["wgan-gp", "hinge"])
def test_a_resumed_run_with_ada_continues_bit_for_bit(loss):
    loss = build_loss(resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "loss": loss}))
    stepper = make_stepper(loss=loss, augment=Augmentation("ada", target=-9.0, speed=100))  # p rises
    whole, resumed = make_state(), make_state(seed=5)
    for step in range(6):
        if step == 3:
            resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
        for state in (whole, resumed) if step >= 3 else (whole,):
            stepper.step(state, make_batch(), FADING, make_batch())
    assert 0.4 < whole.augment_p == resumed.augment_p
    assert torch.equal(whole.augment_signal, resumed.augment_signal)
    for name in ("G", "D"):
        pairs = zip(copy_weights(getattr(whole, name)), copy_weights(getattr(resumed, name)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name


@pytest.mark.parametrize("options", [{"augment": "ada"}, {"holdout": 0.05}, {"holdout": 0.9999}])
def test_the_suggested_holdout_works(options):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3} | options)
    with pytest.raises(ConfigError, match="--holdout") as error:
        split_holdout(config, 24)
    (percent,) = re.findall(r"(\d+)%", str(error.value))
    assert len(split_holdout(replace(config, holdout=int(percent) / 100), 24)[1]) == 4
