"""The schedule against the official code's table-driven one, written out here the plain way."""

import math

import pytest

from pggan.config import PRESETS, ConfigError, TrainConfig, resolve
from pggan.training.growth import GrowthController, crosses

SMALL = {"data": "synthetic", "resolution": 16, "channels": 3, "batch_size": 16}


def plan(**options):
    return GrowthController(resolve(SMALL | options))


def official(config, images):
    """Level of detail as the official schedule computes it: (resolution, weight of the new block)."""
    levels = int(math.log2(config.resolution)) - 2
    length = config.stabilize_kimg + config.fade_kimg
    index = math.floor(images / 1000 / length)
    into = images / 1000 - index * length
    lod = levels - index
    if config.fade_kimg:
        lod -= max(into - config.stabilize_kimg, 0) / config.fade_kimg
    lod = max(lod, 0.0)
    resolution = 2 ** (levels + 2 - math.floor(lod))
    return resolution, 1 - (lod - math.floor(lod))


@pytest.mark.parametrize("preset", ["paper-v1", "paper-v2", "cifar10", "lsun"])
def test_phases_are_the_official_ones(preset):
    config = resolve({"data": "synthetic", "channels": 3, "resolution": 32, "preset": preset})
    controller = GrowthController(config)
    for images in range(0, controller.total_images, 7919):
        phase, (resolution, alpha) = controller.phase(images), official(config, images)
        assert phase.resolution == resolution
        assert phase.alpha == pytest.approx(alpha, abs=1e-9)


def test_preset_numbers_are_the_papers():
    def at(preset, resolution):
        config = resolve({"data": "synthetic", "channels": 3, "resolution": 1024, "preset": preset})
        controller = GrowthController(config)
        phase = controller.phase(controller.stage_end(resolution) - 1)
        return phase.batch_size, phase.lr

    assert [at("paper-v1", r)[0] for r in (4, 128, 256, 512, 1024)] == [16, 16, 14, 6, 3]
    assert [at("paper-v2", r)[0] for r in (4, 16, 32, 64, 128, 256, 512, 1024)] == [128, 128, 64, 32, 16, 8, 4, 4]
    assert at("paper-v2", 512)[1] == 0.001 and at("paper-v2", 1024)[1] == 0.0015
    assert PRESETS["paper-v2"]["total_kimg"] == 12000 and PRESETS["paper-v1"]["total_kimg"] == 19000


def test_optimizers_reset_at_the_start_and_end_of_every_fade():
    controller = plan(fade_kimg=1, stabilize_kimg=1)
    resets, images = [], 0
    while images < controller.total_images:
        after = controller.images_after(images)
        if controller.resets_optimizers(images, after):
            resets.append(after)
        images = after
    borders = [1000, 2000, 3000, 4000]
    assert len(resets) == len(borders)
    for reset, border in zip(resets, borders, strict=True):
        assert border < reset + 1 and reset - border <= 4 * 16


def test_every_stage_ends_once_and_last():
    controller = plan(fade_kimg=1.1, stabilize_kimg=0.7)
    ended, images = [], 0
    while images < controller.total_images:
        after = controller.images_after(images)
        if controller.ends_stage(images, after):
            ended.append(controller.phase(images))
        images = after
    assert [(p.resolution, p.alpha) for p in ended] == [(4, 1), (8, 1), (16, 1)]


def test_rows_cover_the_whole_run_without_gap():
    rows = list(plan(fade_kimg=1, stabilize_kimg=2, total_kimg=20).rows())
    assert [row.start for row in rows] == [0, *(row.end for row in rows[:-1])]
    assert rows[-1].end == 20_000 and [row.resolution for row in rows] == [4, 8, 8, 16, 16]


def test_no_fade_doubles_at_once():
    controller = plan(fade_kimg=0, stabilize_kimg=1)
    assert {controller.phase(i).alpha for i in range(0, 3000, 50)} == {1.0}
    assert controller.phase(999).resolution == 4 and controller.phase(1000).resolution == 8


@pytest.mark.parametrize("resolution, alpha", [(4, 1.0), (8, 0.25), (8, 1.0), (16, 0.5), (16, 1.0)])
def test_position_finds_a_stage_again(resolution, alpha):
    controller = plan(fade_kimg=1, stabilize_kimg=2)
    phase = controller.phase(controller.position(resolution, alpha))
    assert (phase.resolution, phase.alpha) == (resolution, alpha)


def test_crosses():
    assert crosses(0, 100, 100) and not crosses(100, 199, 100) and crosses(199, 401, 100)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"resolution": 48}, "--resolution: resolution 48 is not a power of two"),
        ({"resolution": 2}, "--resolution"),
        ({"resolution": 2048}, "--resolution"),
        ({"batch_size": "4:16,64:8"}, "--batch-size: there is no stage 64"),
        ({"batch_size": "4:16,12:8"}, "--batch-size: there is no stage 12"),
        ({"lr": "4:0.001,32:0.002"}, "--lr: there is no stage 32"),
        ({"batch_size": 18}, "--batch-size: 18 is not a multiple of --mbstd-group 4"),
        ({"fade_kimg": 0.01, "stabilize_kimg": 0.01}, "would be skipped"),
        ({"fade_kimg": 10, "stabilize_kimg": 10, "total_kimg": 40}, "--total-kimg: 40 is too short to reach 16x16"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(options, says):
    with pytest.raises(ConfigError) as refusal:
        plan(**options)
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_batch_smaller_than_the_group_is_one_group():
    assert plan(batch_size=3, mbstd_group=16).phase(0).batch_size == 3


def test_presets_tables_are_cut_at_the_target_resolution():
    assert resolve({"data": "synthetic", "resolution": 16, "channels": 3}).batch_size == {4: 128}
    assert TrainConfig(data="x").batch_size[512] == 4
