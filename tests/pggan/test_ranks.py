from dataclasses import replace

import pytest
import torch
from test_steps import FADING, OPTIONS, batch, new_state, stepper, weights

from pggan.config import ConfigError, resolve_config
from pggan.networks.layers import MinibatchStdDev
from pggan.training.augment import Augmentation
from pggan.training.growth import GrowthController
from pggan.training.ranks import Ranks


@pytest.mark.parametrize("size, group, count", [(16, 4, 1), (16, 4, 2), (16, 4, 4), (8, 4, 3), (24, 4, 4), (6, 16, 2)])
def test_shares_are_whole_groups_and_together_the_batch(size, group, count):
    samples = torch.arange(size)
    shares = [Ranks(rank, count).share(size, group) for rank in range(count)]
    held = [share.select(samples) for share in shares if share.weight]
    assert torch.equal(torch.cat(held).sort().values, samples)
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(len(share) == len(share.select(samples)) > 0 for share in shares)
    whole = MinibatchStdDev(group)(images := torch.randn(size, 2, 4, 4))[:, -1]
    for share in shares:
        assert torch.allclose(MinibatchStdDev(group)(share.select(images))[:, -1], share.select(whole))


@pytest.mark.parametrize("at_once, parts", [(None, 1), (16, 1), (8, 2), (6, 4), (4, 4), (1, 4)])
def test_a_share_falls_into_parts_that_know_their_place(at_once, parts):
    samples, share = torch.arange(32), Ranks(1, 2).share(32, 4)
    found = share.micro_batches(at_once)
    assert len(found) == parts and sum(part.weight for part in found) == share.weight == 0.5
    own = share.select(samples)
    assert all(torch.equal(part.select(samples), part.relative_to(share).select(own)) for part in found)
    assert torch.equal(torch.cat([part.select(samples) for part in found]).sort().values, own.sort().values)


def test_the_whole_batch_is_not_copied():
    x = torch.zeros(8, 3, 4, 4)
    assert Ranks().share(8, 4).select(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("at_once", [4, 8, 12])
@pytest.mark.parametrize("options", [{}, {"labels": 4, "mirror": True}, {"augment": Augmentation("ada", speed=20)}])
def test_micro_batches_train_the_same_as_the_batch_at_once(at_once, options):
    options = dict(options)
    labels = options.pop("labels", 0)
    states = []
    for micro_batch in (None, at_once):
        state = new_state(labels, optimizer="sgd")
        phase = replace(FADING, batch_size=16, micro_batch=micro_batch, lr=0.01)
        for _ in range(3):
            stepper(**options).step(state, batch(labels, count=16), phase, batch(count=8))
        states.append(state)
    whole, parts = states
    assert whole.average_sums() == pytest.approx(parts.average_sums(), rel=1e-4, abs=1e-5)
    assert whole.augment_p == parts.augment_p and parts.images == 48
    start = new_state(labels)
    for name in ("G", "D", "G_ema"):
        for a, b, old in zip(*(weights(getattr(state, name)) for state in (whole, parts, start)), strict=True):
            assert (a - b).abs().max() <= 1e-4 * (a - old).abs().max() + 3e-7  # rounding of the weights themselves


@pytest.mark.parametrize("table, fine", [(8, True), ("4:16,8:4", True), (64, True), (2, False), ("4:8,8:6", False)])
def test_micro_batches_keep_groups_whole(table, fine):
    config = resolve_config(OPTIONS | {"batch_size": 16, "micro_batch": table})
    if fine:
        GrowthController(config)
    else:
        with pytest.raises(ConfigError, match=r"--micro-batch: \d is not a multiple of --mbstd-group 4"):
            GrowthController(config)


def test_micro_batches_at_stages_that_are_not_are_refused():
    with pytest.raises(ConfigError, match="--micro-batch: there is no stage 64"):
        GrowthController(resolve_config(OPTIONS | {"micro_batch": "4:8,64:4"}))
