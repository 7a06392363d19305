"""Compare the schedule with the official code's, which is written out here in its plain form."""

import itertools
import json
import math

import pytest
import torch

from pggan.config import PRESETS, ConfigError, TrainConfig, resolve_config
from pggan.training import train
from pggan.training.evaluation import Evaluator
from pggan.training.growth import GrowthController, is_due
from pggan.training.loop import Training
from pggan.training.steps import Stepper

SMALL = {"data": "synthetic", "resolution": 16, "channels": 3, "batch_size": 16}


def plan(**options):
    return GrowthController(resolve_config(SMALL | options))


def compute_official_phase(config, images):
    """Return (resolution, weight of the new block) as the official schedule computes them."""
    levels = int(math.log2(config.resolution)) - 2
    stabilize, fade = config.stabilize_kimg[4], config.fade_kimg[4]
    length = stabilize + fade
    index = math.floor(images / 1000 / length)
    into = images / 1000 - index * length
    lod = levels - index
    if fade:
        lod -= max(into - stabilize, 0) / fade
    lod = max(lod, 0.0)
    resolution = 2 ** (levels + 2 - math.floor(lod))
    return resolution, 1 - (lod - math.floor(lod))


@pytest.mark.parametrize("preset", ["paper-v1", "paper-v2", "cifar10", "lsun"])
def test_phases_match_the_official_schedule(preset):
    config = resolve_config({"data": "synthetic", "channels": 3, "resolution": 32, "preset": preset})
    controller = GrowthController(config)
    for images in range(0, controller.total_images, 7919):
        phase, (resolution, alpha) = controller.phase(images), compute_official_phase(config, images)
        assert phase.resolution == resolution
        assert phase.alpha == pytest.approx(alpha, abs=1e-9)


def test_preset_numbers_match_the_papers():
    def resolve(preset, resolution):
        config = resolve_config({"data": "synthetic", "channels": 3, "resolution": 1024, "preset": preset})
        controller = GrowthController(config)
        phase = controller.phase(controller.stage_end(resolution) - 1)
        return phase.batch_size, phase.lr

    assert [resolve("paper-v1", r)[0] for r in (4, 128, 256, 512, 1024)] == [16, 16, 14, 6, 3]
    assert [resolve("paper-v2", r)[0] for r in (4, 16, 32, 64, 128, 256, 512, 1024)] == [128, 128, 64, 32, 16, 8, 4, 4]
    assert resolve("paper-v2", 512)[1] == 0.001 and resolve("paper-v2", 1024)[1] == 0.0015
    assert PRESETS["paper-v2"]["total_kimg"] == 12000 and PRESETS["paper-v1"]["total_kimg"] == 19000


def test_optimizers_reset_at_the_start_and_end_of_every_fade():
    controller = plan(fade_kimg=1, stabilize_kimg=1)
    resets, images = [], 0
    while images < controller.total_images:
        after = controller.next_check(images)
        if controller.should_reset_optimizers(images, after):
            resets.append(after)
        images = after
    borders = [1000, 2000, 3000, 4000]
    assert len(resets) == len(borders)
    for reset, border in zip(resets, borders, strict=True):
        assert border < reset + 1 and reset - border <= 4 * 16


def test_every_stage_ends_exactly_once():
    controller = plan(fade_kimg=1.1, stabilize_kimg=0.7)
    ended, images = [], 0
    while images < controller.total_images:
        after = controller.next_check(images)
        if controller.is_stage_end(images, after):
            ended.append(controller.phase(images))
        images = after
    assert [(p.resolution, p.alpha) for p in ended] == [(4, 1), (8, 1), (16, 1)]


@pytest.mark.parametrize("batch_size", [16, "4:64,8:16", "4:4,8:64,16:8"])
@pytest.mark.parametrize("fades", [False, True])
@pytest.mark.parametrize("first", [1, 64, 100, 300])
def test_the_shortest_stages_allowed_fade_in_and_end(batch_size, fades, first):
    """They are one image longer than a schedule update of the stage before, and end at alpha 1."""
    updates = [4 * plan(batch_size=batch_size).phase(images).batch_size for images in (0, 1_200_000, 2_400_000)]
    stages = ",".join(f"{r}:{(update + 1) / 1000}" for r, update in zip((8, 16), updates, strict=False))
    stables = ",".join(f"{r}:{update / 1000}" for r, update in zip((8, 16), updates[1:], strict=True))
    options = {"fade_kimg": f"4:0,{stages}", "stabilize_kimg": f"4:{first / 1000},{stables}"}
    if not fades:
        options = {"fade_kimg": 0, "stabilize_kimg": f"4:{first / 1000},{stages}"}
    controller = plan(batch_size=batch_size, **options)
    fading, ended, images = set(), [], 0
    while images < controller.total_images:
        after, phase = controller.next_check(images), controller.phase(images)
        fading |= {phase.resolution} if phase.is_fading else set()
        if controller.is_stage_end(images, after):
            assert phase.alpha == 1
            ended.append(phase.resolution)
        images = after
    assert ended == [4, 8, 16] and fading == ({8, 16} if fades else set())


def test_rows_cover_the_whole_run_without_gaps():
    rows = list(plan(fade_kimg=1, stabilize_kimg=2, total_kimg=20).rows())
    assert [row.start for row in rows] == [0, *(row.end for row in rows[:-1])]
    assert rows[-1].end == 20_000 and [row.resolution for row in rows] == [4, 8, 8, 16, 16]


def test_learning_rates_fall_to_zero_at_the_end_on_a_cosine():
    controller = plan(fade_kimg=1, stabilize_kimg=1, lr=0.004, d_lr=0.002, decay_kimg=2)  # ends at 5000
    factors = {0: 1, 2500: 1, 3000: 1, 3500: (1 + math.sqrt(0.5)) / 2, 4000: 0.5, 5000: 0, 5100: 0}
    for images, factor in factors.items():
        assert controller.phase(images).d_and_g_lr == pytest.approx((0.002 * factor, 0.004 * factor), abs=1e-12)
    assert plan(fade_kimg=1, stabilize_kimg=1).decay(5100) == 1
    assert plan(fade_kimg=1, stabilize_kimg=1, decay_kimg=9).decay(2500) == pytest.approx(0.5)  # over the whole run


def test_stages_have_lengths_of_their_own():
    controller = plan(fade_kimg="4:1,16:2", stabilize_kimg="4:0.5,8:3,16:4")
    assert [(row.resolution, row.is_fading, row.start, row.end) for row in controller.rows()] == [
        (4, False, 0, 500),
        (8, True, 500, 1500),
        (8, False, 1500, 4500),
        (16, True, 4500, 6500),
        (16, False, 6500, 10_500),
    ]
    assert controller.phase(1000).alpha == 0.5 and controller.phase(5000).alpha == 0.25
    assert controller.find_position(16, 0.25) == 5000
    mixed = plan(fade_kimg="4:0,16:1", stabilize_kimg=1)
    assert [mixed.phase(i).alpha for i in (1000, 1500, 2500)] == [1, 1, 0.5]


def test_resolution_doubles_immediately_without_a_fade():
    controller = plan(fade_kimg=0, stabilize_kimg=1)
    assert {controller.phase(i).alpha for i in range(0, 3000, 50)} == {1.0}
    assert controller.phase(999).resolution == 4 and controller.phase(1000).resolution == 8


@pytest.mark.parametrize("resolution, alpha", [(4, 1.0), (8, 0.25), (8, 1.0), (16, 0.5), (16, 1.0)])
def test_find_position_locates_a_stage(resolution, alpha):
    controller = plan(fade_kimg=1, stabilize_kimg=2)
    phase = controller.phase(controller.find_position(resolution, alpha))
    assert (phase.resolution, phase.alpha) == (resolution, alpha)


def test_is_due_when_a_multiple_is_crossed():
    assert is_due(0, 100, 100) and not is_due(100, 199, 100) and is_due(199, 401, 100)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resolution": 48}, "--resolution: resolution 48 is not a power of two"),
        ({"resolution": 2}, "--resolution"),
        ({"resolution": 2048}, "--resolution"),
        ({"batch_size": "4:16,64:8"}, "--batch-size: there is no stage 64"),
        ({"batch_size": "4:16,12:8"}, "--batch-size: there is no stage 12"),
        ({"lr": "4:0.001,32:0.002"}, "--lr: there is no stage 32"),
        ({"fade_kimg": "4:1,32:2"}, "--fade-kimg: there is no stage 32"),
        ({"batch_size": 18}, "--batch-size: 18 is not a multiple of --mbstd-group 4"),
        ({"fade_kimg": 0.01, "stabilize_kimg": 1}, "--fade-kimg: the fade-in to 8x8 takes 10 images, so few"),
        ({"fade_kimg": "4:1,16:0.064"}, "may skip it; it needs at least 65 images, or 0"),
        (
            {"fade_kimg": 0, "stabilize_kimg": "4:1,8:0.06"},
            "--stabilize-kimg: training 8x8 at alpha 1 takes 60 images, ",
        ),
        (
            {"fade_kimg": 0, "stabilize_kimg": 1, "total_kimg": 2.05},
            "--total-kimg: training 16x16 at alpha 1 takes 50 images",
        ),
        (
            {"fade_kimg": 1, "stabilize_kimg": "4:1,8:0.063"},
            "--stabilize-kimg: training 8x8 at alpha 1 takes 63 images",
        ),
        (
            {"fade_kimg": 1, "stabilize_kimg": 1, "total_kimg": 4.063},
            "--total-kimg: training 16x16 at alpha 1 takes 63",
        ),
        ({"fade_kimg": 10, "stabilize_kimg": 10, "total_kimg": 40}, "--total-kimg: 40 is too short to reach 16x16"),
    ],
)
def test_infeasible_schedules_are_rejected(options, message):
    with pytest.raises(ConfigError) as error:
        plan(**options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_batch_smaller_than_the_group_is_one_group():
    assert plan(batch_size=3, mbstd_group=16).phase(0).batch_size == 3


def test_preset_tables_are_cut_at_the_target_resolution():
    assert resolve_config({"data": "synthetic", "resolution": 16, "channels": 3}).batch_size == {4: 128}
    assert TrainConfig(data="x").batch_size[512] == 4


ADAPTIVE = {
    "growth": "adaptive",
    "fade_kimg": 1,
    "stabilize_kimg": 4,
    "min_stabilize_kimg": 1,
    "growth_window": 1,
    "growth_share": "10%",
    "metrics": "swd",
    "metric_every_kimg": 0.5,
}


def test_early_stage_ends_move_later_stages_forward_and_lengthen_the_last():
    early, fixed = GrowthController(resolve_config(SMALL | ADAPTIVE), {4: 1500, 8: 4000}), plan(**ADAPTIVE)
    assert [(row.resolution, row.start, row.end) for row in early.rows()] == [
        (4, 0, 1500),
        (8, 1500, 2500),
        (8, 2500, 4000),
        (16, 4000, 5000),
        (16, 5000, fixed.total_images),
    ]
    assert early.phase(1500).resolution == 4 and early.phase(1501).resolution == 8
    assert early.phase(2000).alpha == 0.5 and early.phase(2500).alpha == 1
    assert early.is_stage_end(1436, 1500) and not early.is_stage_end(1500, 1564)


@pytest.mark.parametrize(
    "scores, should_end",
    [
        ([(500, 100.0), (1000, 95.0), (1500, 91.0)], True),  # by 9% since 500
        ([(500, 100.0), (1000, 95.0), (1500, 89.0)], False),  # by 11%
        ([(500, 100.0), (1000, 80.0), (1500, 99.0)], False),  # the best of the window counts
        ([(500, 100.0), (1000, 110.0), (1500, 120.0)], True),
        ([(1000, 100.0), (1500, 100.0)], False),  # nothing before the window yet
        ([], False),
    ],
)
def test_a_stage_ends_when_its_score_stops_improving(scores, should_end):
    assert plan(**ADAPTIVE).should_end_stage(1500, scores) == should_end


def test_a_stage_lasts_its_minimum_time_and_the_last_stage_runs_to_the_end():
    flat = [(100, 1.0), (3000, 1.0)]
    assert not plan(**ADAPTIVE | {"min_stabilize_kimg": 2, "growth_window": 0.5}).should_end_stage(1999, flat)
    last = plan(**ADAPTIVE)
    assert not last.should_end_stage(last.total_images - 1, [(10_500, 1.0), (13_000, 1.0)])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"growing": False}, "--growth adaptive needs networks that grow"),
        ({"arch": "dcgan"}, "--growth adaptive needs networks that grow"),
        (
            {"metric_every_kimg": None},
            "--growth adaptive needs evaluations of swd during a stage: add --metric-every-kimg",
        ),
        ({"growth_metric": "fid"}, "include fid in --metrics"),
        ({"min_stabilize_kimg": 5}, "--min-stabilize-kimg: 5 is more than --stabilize-kimg 4"),
    ],
)
def test_adaptive_growth_with_missing_options_is_rejected(options, message):
    with pytest.raises(ConfigError) as error:
        plan(**ADAPTIVE | options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_non_growing_networks_have_one_stage():
    for options in ({"arch": "dcgan"}, {"growing": False}, {"arch": "msg"}, {"arch": "r3gan"}):
        controller = plan(stabilize_kimg=3, **options)
        (row,) = controller.rows()
        assert (row.resolution, row.is_fading, row.start, row.end) == (16, False, 0, 3000)
        assert {(controller.phase(i).resolution, controller.phase(i).alpha) for i in range(0, 3000, 100)} == {(16, 1.0)}


RUN = (
    SMALL
    | ADAPTIVE
    | {
        "resolution": 8,
        "fmap_base": 32,
        "fmap_max": 8,
        "batch_size": 8,
        "fade_kimg": 0.1,
        "stabilize_kimg": 0.8,
        "total_kimg": 1.2,
        "min_stabilize_kimg": 0.1,
        "growth_window": 0.1,
        "metric_every_kimg": 0.1,
        "tick_kimg": 0.15,
        "metric_images": 32,
        "n_critic": 3,
        "track": "none",
        "device": "cpu",
        "precision": "fp32",
    }
)
TIMES = {
    *("images_per_second", "loader_share", "seconds", "peak_memory_mb", "stage_seconds", "evaluation_seconds"),
    *("checkpoint_seconds", "checkpoint_mb"),
}


def read_log_lines(run, name):
    lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]


def test_an_adaptive_run_ends_bit_identical_wherever_it_was_interrupted(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    train(resolve_config(RUN | {"out": str(tmp_path / "whole")}))
    whole = torch.load(tmp_path / "whole/checkpoints/latest.pt", weights_only=True)["state"]
    assert set(whole["stage_ends"]) == {4} and whole["stage_ends"][4] < 800  # ended early
    lines = read_log_lines(tmp_path / "whole", "metrics.jsonl")
    ends = {line["resolution"]: line["images"] for line in lines if line["stage_end"]}
    assert ends == {**whole["stage_ends"], 8: whole["images"]}

    def fail_at_call(count, method):
        """Wrap the method so that call number `count` raises Interrupted."""
        calls = itertools.count(1)

        def wrapped(*args, **kwargs):
            if next(calls) == count:
                raise Interrupted
            return method(*args, **kwargs)

        return wrapped

    for owner, name, count in ((Stepper, "step", 31), (Evaluator, "__call__", 2), (Training, "save", 3)):
        with monkeypatch.context() as context, pytest.raises(Interrupted):
            context.setattr(owner, name, fail_at_call(count, getattr(owner, name)))
            train(resolve_config(RUN | {"out": str(tmp_path / "run")}))
    train(resolve_config(RUN | {"out": str(tmp_path / "run")}))
    ours = torch.load(tmp_path / "run/checkpoints/latest.pt", weights_only=True)["state"]
    assert_equal_bits(ours | {"seconds": 0, "elapsed": 0}, whole | {"seconds": 0, "elapsed": 0})
    for name in ("log.jsonl", "metrics.jsonl"):
        assert read_log_lines(tmp_path / "run", name) == read_log_lines(tmp_path / "whole", name)


class Interrupted(Exception):
    """The interruption of a run, which stands in for a killed process."""


def assert_equal_bits(a, b, where="state"):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal_bits(a[key], b[key], f"{where}.{key}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, where
