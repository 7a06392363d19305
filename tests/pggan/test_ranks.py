from dataclasses import replace

import pytest
import torch
from test_steps import FADING, OPTIONS, copy_weights, make_batch, make_state, make_stepper

from pggan.config import ConfigError, resolve_config
from pggan.networks.layers import MinibatchStdDev
from pggan.training.augment import Augmentation
from pggan.training.growth import GrowthController
from pggan.training.ranks import Ranks


@pytest.mark.parametrize("size, group, count", [(16, 4, 1), (16, 4, 2), (16, 4, 4), (8, 4, 3), (24, 4, 4), (6, 16, 2)])
def test_shares_are_whole_groups_and_cover_the_batch(size, group, count):
    samples = torch.arange(size)
    shares = [Ranks(rank, count).share(size, group) for rank in range(count)]
    selected = [share.select(samples) for share in shares if share.weight]
    assert torch.equal(torch.cat(selected).sort().values, samples)
    assert sum(share.weight for share in shares) == pytest.approx(1)
    assert all(len(share) == len(share.select(samples)) > 0 for share in shares)
    whole = MinibatchStdDev(group)(images := torch.randn(size, 2, 4, 4))[:, -1]
    for share in shares:
        assert torch.allclose(MinibatchStdDev(group)(share.select(images))[:, -1], share.select(whole))


@pytest.mark.parametrize("limit, parts", [(None, 1), (16, 1), (8, 2), (6, 4), (4, 4), (1, 4)])
def test_a_share_splits_into_correctly_placed_micro_batches(limit, parts):
    samples, share = torch.arange(32), Ranks(1, 2).share(32, 4)
    found = share.micro_batches(limit)
    assert len(found) == parts and sum(part.weight for part in found) == share.weight == 0.5
    selected = share.select(samples)
    assert all(torch.equal(part.select(samples), part.relative_to(share).select(selected)) for part in found)
    assert torch.equal(torch.cat([part.select(samples) for part in found]).sort().values, selected.sort().values)


def test_the_whole_batch_is_not_copied():
    x = torch.zeros(8, 3, 4, 4)
    assert Ranks().share(8, 4).select(x).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("limit", [4, 8, 12])
@pytest.mark.parametrize("options", [{}, {"labels": 4, "mirror": True}, {"augment": Augmentation("ada", speed=20)}])
def test_micro_batches_train_the_same_as_the_whole_batch(limit, options):
    options = dict(options)
    labels = options.pop("labels", 0)
    states = []
    for micro_batch in (None, limit):
        state = make_state(labels, optimizer="sgd")
        phase = replace(FADING, batch_size=16, micro_batch=micro_batch, lr=0.01)
        for _ in range(3):
            make_stepper(**options).step(state, make_batch(labels, count=16), phase, make_batch(count=8))
        states.append(state)
    whole, parts = states
    assert whole.average_sums() == pytest.approx(parts.average_sums(), rel=1e-4, abs=1e-5)
    assert whole.augment_p == parts.augment_p and parts.images == 48
    start = make_state(labels)
    for name in ("G", "D", "G_ema"):
        for a, b, old in zip(*(copy_weights(getattr(state, name)) for state in (whole, parts, start)), strict=True):
            assert (a - b).abs().max() <= 1e-4 * (a - old).abs().max() + 3e-7  # rounding of the weights themselves


@pytest.mark.parametrize("table, is_valid", [(8, True), ("4:16,8:4", True), (64, True), (2, False), ("4:8,8:6", False)])
def test_micro_batches_must_hold_whole_groups(table, is_valid):
    config = resolve_config(OPTIONS | {"batch_size": 16, "micro_batch": table})
    if is_valid:
        GrowthController(config)
    else:
        with pytest.raises(ConfigError, match=r"--micro-batch: \d is not a multiple of --mbstd-group 4"):
            GrowthController(config)


def test_micro_batches_at_missing_stages_are_rejected():
    with pytest.raises(ConfigError, match="--micro-batch: there is no stage 64"):
        GrowthController(resolve_config(OPTIONS | {"micro_batch": "4:8,64:4"}))
