import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_steps import FADING, batch, new_state, stepper, weights

from pggan.config import ConfigError, resolve_config
from pggan.training.augment import (
    Augmentation,
    compute_overfitting,
    jitter_color,
    split_holdout,
    square_mask,
    translate,
)
from pggan.training.ranks import SINGLE_PROCESS

P = {p: torch.tensor(float(p)) for p in (0, 0.5, 1)}


def images(count=64, side=16, channels=3, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def applied(mode, x, p=1, seed=0):
    return Augmentation(mode)(x, P[p], np.random.default_rng(seed), SINGLE_PROCESS.share(len(x), 1))


def changed(x, y):
    return (x != y).flatten(1).any(dim=1)


def test_none_changes_nothing():
    x = images()
    assert applied("none", x) is x


def test_ada_carries_out_each_transformation_with_probability_p():
    x = images(2000, 8)
    assert not changed(x, applied("ada", x, 0)).any()
    assert changed(x, applied("ada", x, 1)).all()
    share = changed(x, applied("ada", x, 0.5)).float().mean().item()
    assert share == pytest.approx(1 - 0.5**3, abs=0.06)  # of three; a translation by nothing is none
    assert torch.equal(applied("ada", x, 1), applied("diffaug", x, 0))


def test_the_same_chance_gives_the_same_images_and_another_others():
    x = images()
    assert torch.equal(applied("diffaug", x, 1, 3), applied("diffaug", x, 1, 3))
    assert changed(applied("diffaug", x, 1, 3), applied("diffaug", x, 1, 4)).all()


@pytest.mark.parametrize("side", [4, 8, 32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_stage_and_channels_keep_their_shape(side, channels):
    x = images(8, side, channels)
    assert applied("diffaug", x).shape == x.shape and applied("diffaug", x).isfinite().all()


def test_colours_are_moved_as_the_paper_says():
    x = images(2, 4)
    one = torch.ones(2, 1, 1, 1)
    assert torch.allclose(jitter_color(x, one, 0.5 * one, 0.5 * one), x + 0.5, atol=1e-6)
    gray = jitter_color(x, 0.5 * one, 0 * one, 0.5 * one)
    assert torch.allclose(gray, x.mean(1, keepdim=True).expand_as(x), atol=1e-6)
    mean = x.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(jitter_color(x, 0.5 * one, 0.5 * one, one), mean + 1.5 * (x - mean), atol=1e-6)


def test_translation_moves_whole_pixels_and_zeros_come_in():
    x = images(3, 8)
    by = torch.tensor([[1, 0, -1], [0, -1, 1]])
    y = translate(x, by, 1)
    assert torch.equal(y[0, :, 1:], x[0, :, :-1]) and (y[0, :, 0] == 0).all()
    assert torch.equal(y[1, :, :, :-1], x[1, :, :, 1:]) and (y[1, :, :, -1] == 0).all()
    assert torch.equal(y[2, :, :-1, 1:], x[2, :, 1:, :-1])


def test_translations_reach_an_eighth_of_the_side_each_way_equally_often():
    found = set()
    x = images(400, 16)
    y = applied("diffaug", torch.ones_like(x))
    for image in y[:, 0]:
        rows, columns = (image == 0).all(1), (image == 0).all(0)
        found.add((int(rows[:2].sum()), int(rows[-2:].sum()), int(columns[:2].sum()), int(columns[-2:].sum())))
    for side in range(4):
        assert {f[side] for f in found} == {0, 1, 2}


def test_the_square_cut_out_is_half_the_side_and_cut_off_at_the_edges():
    centres = torch.tensor([[4, 0, 8], [4, 0, 8]])
    mask = square_mask(centres, 8)[:, 0]
    assert mask[0].sum() == 16 and mask[0, 2:6, 2:6].all()
    assert mask[1].sum() == 4 and mask[1, :2, :2].all() and mask[2].sum() == 4 and mask[2, 6:, 6:].all()


def test_gradients_reach_what_is_seen_and_nothing_else():
    x = images(8, 8).requires_grad_(True)
    y = applied("diffaug", x)
    assert torch.autograd.gradcheck(
        lambda v: applied("diffaug", v),
        images(2, 4).double().requires_grad_(True),
    )
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert (gradient != 0).any(dim=1).flatten(1).any(dim=1).all()


def test_the_signal_is_nothing_where_held_out_images_score_alike_and_one_where_they_score_as_fakes():
    real, fake = torch.tensor(3.0), torch.tensor(-5.0)
    assert compute_overfitting(real, real, fake) == 0 and compute_overfitting(real, fake, fake) == 1
    assert compute_overfitting(real * 7 + 2, torch.tensor(1.0) * 7 + 2, fake * 7 + 2) == compute_overfitting(
        real, torch.tensor(1.0), fake
    )


def test_p_moves_by_the_signs_of_the_signal_and_stays_within_its_range():
    ada = Augmentation("ada", target=0.6, speed=1000)
    p = P[0.5]
    assert ada.update_p(p, torch.tensor(0.7), 100) == pytest.approx(0.6)
    assert ada.update_p(p, torch.tensor(0.1), 100) == pytest.approx(0.4)
    assert ada.update_p(p, torch.tensor(float("nan")), 100) == 0.5
    assert ada.update_p(P[1], torch.tensor(9.0), 100) == 1 and ada.update_p(P[0], torch.tensor(0.0), 100) == 0
    assert Augmentation("diffaug").update_p(p, torch.tensor(9.0), 100) is p


def trained(mode, steps=3, **options):
    state = new_state(**options)
    held_out = replace(batch(), images=batch().images.flip(0))
    for _ in range(steps):
        stepper(augment=Augmentation(mode, speed=100)).step(state, batch(), FADING, held_out)
    return state


@pytest.mark.parametrize("mode", ["diffaug", "ada"])
def test_augmented_steps_train_both_networks_and_are_the_same_every_time(mode):
    first, second, plain = trained(mode), trained(mode), trained("none")
    for name in ("G", "D"):
        a, b, c = (weights(getattr(state, name)) for state in (first, second, plain))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True)), name
        assert any(not torch.equal(x, y) for x, y in zip(a, c, strict=True)) == (
            mode == "diffaug" or first.augment_p > 0
        )


def test_everything_the_critic_sees_is_augmented(monkeypatch):
    state, seen = new_state(), []
    forward = state.D.forward
    monkeypatch.setattr(state.D, "forward", lambda x, **stage: seen.append(x.detach()) or forward(x, **stage))
    step = stepper(augment=Augmentation("diffaug"), seed=1)
    step.step(state, batch(), FADING, batch())
    held_out, both, mixed, g_fakes = seen
    reals, fakes = both.chunk(2)
    stage = {"resolution": 8, "alpha": torch.tensor(0.5)}
    plain = stepper(seed=1).prepare_reals(new_state(), stage, batch(), "augmented reals")
    for x in (held_out, reals):
        assert changed(x, plain).all()
    assert changed(held_out, reals).all() and changed(fakes, g_fakes).all()
    for x in (reals, fakes):
        assert (x == 0).all(dim=1).flatten(1).sum(dim=1).min() >= 4  # what was cut out
    between = torch.minimum(reals, fakes) - 1e-5 <= mixed
    assert (between & (mixed <= torch.maximum(reals, fakes) + 1e-5)).all()


def test_looking_at_held_out_images_changes_nothing_but_the_log():
    looked, plain = new_state(), new_state()
    stepper().step(looked, batch(), FADING, batch())
    stepper().step(plain, batch(), FADING)
    for name in ("G", "D"):
        a, b = weights(getattr(looked, name)), weights(getattr(plain, name))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert {"seen_score", "held_out_score", "faked_score"} == looked.sums.keys() - plain.sums.keys()


def test_p_is_part_of_the_state():
    state, twin = trained("ada", 4), new_state(seed=5)
    assert state.augment_p.shape == ()
    state.augment_p = torch.tensor(0.25)
    twin.load_state_dict(copy.deepcopy(state.state_dict()))
    assert twin.augment_p == 0.25
    older = {k: v for k, v in state.state_dict().items() if k != "augment_p"}
    fresh = new_state()
    fresh.load_state_dict(older)
    assert fresh.augment_p == 0


@pytest.mark.parametrize("options", [{"augment": "ada"}, {"holdout": 0.05}, {"holdout": 0.9999}])
def test_the_advice_on_the_images_to_hold_out_works(options):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3} | options)
    with pytest.raises(ConfigError, match="--holdout") as refused:
        split_holdout(config, 24)
    (percent,) = re.findall(r"(\d+)%", str(refused.value))
    assert len(split_holdout(replace(config, holdout=int(percent) / 100), 24)[1]) == 4
