"""--budget: durations, the plan from measured speeds, and the end of the last stage."""

import json
import math
import re
from dataclasses import replace

import pytest

from pggan import checkpoints
from pggan.checkpoints.run_directory import read_lines
from pggan.config import ConfigError, TrainConfig, parse_duration, spell_option
from pggan.datasets import SyntheticShapes
from pggan.networks.progressive import count_feature_maps
from pggan.training import budget, loop, train
from pggan.training.budget import find_end, list_widths, plan_stages, resolve_budget, share_time
from pggan.training.growth import GrowthController
from pggan.use.report.run import build_plan_rows
from pggan.use.trained import read_plan

IMAGES_PER_SECOND = {4: 4000, 8: 2000, 16: 400, 32: 100, 64: 20}  # of networks with --fmap-base 512


@pytest.fixture
def largest_base():
    """The largest --fmap-base that fits in memory."""
    return 8192


@pytest.fixture
def speeds(monkeypatch, largest_base):
    """Replace the timing of steps: half the speed with twice the width."""
    monkeypatch.setattr(budget, "measure_matrix_rate", lambda *_: 1e11)
    table = dict(IMAGES_PER_SECOND)

    def measure_speed(config, classes, device, processes):
        times = {r: config.fmap_base / 512 / table[r] / processes for r in table if r <= config.resolution}
        return times, config.fmap_base <= largest_base

    monkeypatch.setattr(budget, "measure_speed", measure_speed)
    return table


def resolve(tmp_path, monkeypatch, **options):
    monkeypatch.chdir(tmp_path)
    return resolve_budget({"data": "synthetic", "channels": 3, "device": "cpu", **options})


@pytest.mark.parametrize("text, seconds", [("90s", 90), ("30m", 1800), ("8h", 28800), ("1.5d", 129600)])
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert TrainConfig(budget=text).budget == text


@pytest.mark.parametrize("text", ["8", "h", "", "8 hours", "nanh", "infh", "-3h", "59s", "1e20d"])
def test_other_texts_are_refused(text):
    with pytest.raises(ConfigError, match="--budget: "):
        TrainConfig(budget=text)


def test_each_stage_gets_its_share_of_the_time():
    times = {4: 0.001, 8: 0.002, 16: 0.01, 32: 0.05}
    chosen = plan_stages(TrainConfig(batch_size=16), {}, times, training=1000.0)
    seconds = {r: 1000 * (chosen["fade_kimg"][r] + chosen["stabilize_kimg"][r]) * times[r] for r in times}
    assert list(seconds.values()) == pytest.approx([1000 * share for share in share_time(4)], rel=0.01)
    assert sum(share_time(4)) == pytest.approx(1) and share_time(1) == [1.0]
    assert chosen["fade_kimg"][4] == 0 and all(chosen["fade_kimg"][r] > 0 for r in (8, 16, 32))
    assert 0 < chosen["decay_kimg"] < chosen["fade_kimg"][32] + chosen["stabilize_kimg"][32]
    assert 0.9 < chosen["ema_decay"] < 1


def test_no_stage_is_shorter_than_an_update_of_the_schedule():
    config = TrainConfig(resolution=16, channels=3, batch_size=16, lr=0.001, tick_kimg=1)
    GrowthController(replace(config, **plan_stages(config, {}, {4: 1.0, 8: 1.0, 16: 1.0}, training=-10.0)))


def test_the_moving_average_moves_however_long_the_run():
    """Rounded to 1, its decay would freeze it."""
    chosen = plan_stages(TrainConfig(batch_size=8), {}, {4: 0.001}, training=500_000.0)
    assert chosen_half_life(chosen, 8) == pytest.approx(budget.MAX_HALF_LIFE, rel=0.01)
    assert float(spell_option("ema_decay", chosen["ema_decay"]).split()[1]) < 1  # as printed


def chosen_half_life(chosen, images_per_update):
    return images_per_update * math.log(0.5) / math.log(chosen["ema_decay"])


def test_with_fewer_updates_of_g_the_average_is_as_long():
    (one, five) = (plan_stages(TrainConfig(batch_size=8, n_critic=n), {}, {4: 0.1}, 1000.0) for n in (1, 5))
    assert chosen_half_life(five, 5 * 8) == pytest.approx(chosen_half_life(one, 8), rel=1e-3)


def test_the_plan_fits_specified_stage_lengths(speeds, tmp_path, monkeypatch):
    usual = resolve(tmp_path, monkeypatch, budget="1h", resolution=32)
    config = resolve(tmp_path, monkeypatch, budget="1h", resolution=32, fade_kimg=40)
    assert config.stabilize_kimg[32] == pytest.approx(usual.fade_kimg[32] + usual.stabilize_kimg[32] - 40, rel=0.01)
    assert config.total_kimg == pytest.approx(3 * 40 + sum(config.stabilize_kimg.values()))
    config = resolve(tmp_path, monkeypatch, budget="1h", resolution=32, stabilize_kimg="4:500,32:50")
    assert config.total_kimg == pytest.approx(1550 + sum(config.fade_kimg.values()))


def test_more_time_buys_wider_networks(speeds, tmp_path, monkeypatch):
    times = "10m", "1h", "10h", "9d"
    widths = [resolve(tmp_path, monkeypatch, budget=time, resolution=32).fmap_base for time in times]
    assert widths == sorted(widths) and len(set(widths)) > 2 and widths[-1] == 8192


@pytest.mark.parametrize("resolution", [4, 32, 64, 1024])
def test_widths_end_at_the_papers(resolution):
    widths = list_widths(resolution)
    assert widths == sorted(set(widths)) and widths[-1] == (min(256 * resolution, 8192), 512)
    assert count_feature_maps(resolution.bit_length() - 2, widths[0][0], 1.0, widths[0][1]) == 16


@pytest.mark.parametrize("largest_base", [2048])
def test_networks_that_do_not_fit_in_memory_are_not_planned(speeds, tmp_path, monkeypatch, capsys):
    assert resolve(tmp_path, monkeypatch, budget="9d", resolution=32).fmap_base == 2048
    assert "--fmap-base 4096 --fmap-max 512 need more memory" in capsys.readouterr().err


@pytest.mark.parametrize("largest_base", [64])
def test_narrowest_networks_that_do_not_fit_lower_the_resolution_or_are_reported(speeds, tmp_path, monkeypatch, capsys):
    assert resolve(tmp_path, monkeypatch, budget="9d").fmap_base == 64
    assert "32x32 is out of reach in 9d on this machine: its networks need more memory" in capsys.readouterr().err
    assert resolve(tmp_path, monkeypatch, budget="9d", resolution=32, out="b").resolution == 32
    assert "warning: these networks need more memory than there is; use --micro-batch" in capsys.readouterr().err


def test_wider_networks_are_timed_only_if_there_is_time_for_them(speeds, tmp_path, monkeypatch):
    bases, measure = [], budget.measure_speed

    def count(config, **kwargs):
        bases.append((config.resolution, config.fmap_base))
        return measure(config, **kwargs)

    monkeypatch.setattr(budget, "measure_speed", count)
    resolve(tmp_path, monkeypatch, budget="10m", resolution=32)
    assert bases == [(32, 256)]
    bases.clear()
    resolve(tmp_path, monkeypatch, budget="9d", resolution=32, fmap_base=512, fmap_max=64, out="b")
    assert bases == [(32, 512)]


def test_tables_for_stages_out_of_reach_are_shortened(speeds, tmp_path, monkeypatch, capsys):
    config = resolve(tmp_path, monkeypatch, budget="2m", batch_size="4:16,32:8", lr="4:0.002,32:0.001")
    assert (config.resolution, config.batch_size, config.lr) == (16, {4: 16}, {4: 0.002})
    assert capsys.readouterr().err.count("planning for 16x16") == 1
    record(config, tmp_path)
    assert resolve(tmp_path, monkeypatch, budget="2m", batch_size="4:16,32:8", lr="4:0.002,32:0.001") == config


def record(config, folder):
    """Write a run's config.json, as its start does."""
    (folder / config.out).mkdir(parents=True)
    (folder / config.out / "config.json").write_text(json.dumps(config.to_dict()))


def test_stages_as_short_as_the_plans_batches_allow_are_accepted(speeds, tmp_path, monkeypatch):
    assert resolve(tmp_path, monkeypatch, budget="1h", fade_kimg=0.3, stabilize_kimg=0.05).batch_size[4] == 8


@pytest.mark.parametrize(
    "options, warns",
    [
        ({"metrics": "fid", "metric_images": 5000}, "--metrics, --metric-images"),
        ({"fade_kimg": 600}, "--fade-kimg"),
        ({"stabilize_kimg": 1600}, "--stabilize-kimg"),
        ({"metrics": "swd", "metric_images": 5000}, None),
        ({"metrics": "none"}, None),
        ({}, None),
    ],
)
def test_a_run_that_cannot_keep_its_budget_is_reported(options, warns, speeds, tmp_path, monkeypatch, capsys):
    config = resolve(tmp_path, monkeypatch, budget="25m", resolution=32, **options)
    message = capsys.readouterr().err
    assert ("longer than --budget 25m" in message) == (warns is not None)
    assert warns is None or f"or omit or lower {warns}\n" in message
    if options.get("metrics") == "none":  # the time goes to training
        usual = resolve(tmp_path, monkeypatch, budget="25m", resolution=32, out="b")
        assert config.total_kimg > 1.05 * usual.total_kimg


def test_no_tick_is_longer_than_ten_minutes(speeds, tmp_path, monkeypatch):
    config = resolve(tmp_path, monkeypatch, budget="9d", resolution=32)
    speed = IMAGES_PER_SECOND[32] * 512 / config.fmap_base
    assert config.tick_kimg[32] * 1000 / speed == pytest.approx(600, rel=0.01)


def test_ada_can_act_within_the_run(speeds, tmp_path, monkeypatch):
    config = resolve(tmp_path, monkeypatch, budget="10m", resolution=32, augment="ada", holdout=0.05)
    assert config.ada_kimg == pytest.approx(0.4 * config.total_kimg, rel=0.01)
    assert resolve(tmp_path, monkeypatch, budget="9d", augment="ada", holdout=0.05, out="b").ada_kimg == 500
    monkeypatch.setattr(budget, "measure_speed", None)  # refused before any step is timed
    with pytest.raises(ConfigError, match="needs held-out images"):
        resolve(tmp_path, monkeypatch, budget="10m", augment="ada", out="c")


@pytest.mark.parametrize(
    "images, options, augment",
    [
        (300, {}, "ada"),
        (9999, {}, "none"),  # seen a few times
        (150, {}, "none"),  # too few to hold some out
        (300, {"augment": "none"}, "none"),
        (300, {"augment": "diffaug"}, "diffaug"),
        (300, {"holdout": 0}, "none"),
        (300, {"channels": 4}, "none"),
    ],
)
def test_images_that_would_be_seen_often_are_augmented(images, options, augment, speeds, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = {"data": "synthetic", "channels": 3, "device": "cpu", "budget": "20m", "resolution": 32}
    config = resolve_budget(common | options, None, lambda *_: SyntheticShapes(images))
    assert config.augment == augment
    assert ("using --augment ada" in capsys.readouterr().err) == (augment == "ada")
    if augment == "ada":
        assert config.ada_kimg == pytest.approx(0.4 * config.total_kimg, rel=0.01)


def test_every_process_has_a_group_of_each_batch(speeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"data": "synthetic", "channels": 3, "device": "cpu", "budget": "1h", "resolution": 32}
    assert min(resolve_budget(options, processes=8).batch_size.values()) == 32
    assert min(resolve_budget(options | {"out": "b"}).batch_size.values()) == 8


def test_a_single_image_is_not_evaluated(speeds, tmp_path, monkeypatch):
    config = TrainConfig(resolution=4, channels=3, budget="1h")
    assert budget.plan_evaluations(config, {}, 3600, 10.0, images=1).metrics == ()
    assert budget.plan_evaluations(config, {}, 3600, 10.0, images=2).metrics == ("kid", "mind")


@pytest.mark.parametrize("end", [20_000, 30_000, 40_000, 80_000])
def test_the_decay_takes_the_same_fraction_of_the_last_stage_wherever_it_ends(end):
    """Planned: 8x8 from 10,000 to 40,000 images, of which the last third decays."""
    lengths = {"fade_kimg": 10, "stabilize_kimg": 10, "total_kimg": 40, "decay_kimg": 10}
    config = TrainConfig(resolution=8, channels=3, budget="1h", batch_size=8, lr=0.001, tick_kimg=1, **lengths)
    plan = GrowthController(config, {8: end})
    assert plan.fade_starts[-1] == 10_000 and plan.decay_start == pytest.approx(end - (end - 10_000) / 3, abs=1)
    assert GrowthController(replace(config, budget=None), {8: end}).decay_start == end - 10_000


def test_specified_options_win(speeds, tmp_path, monkeypatch):
    options = {"fmap_max": 48, "lr": 0.01, "batch_size": "4:8", "metrics": "swd"}
    config = resolve(tmp_path, monkeypatch, budget="1h", resolution=32, **options)
    assert (config.fmap_max, config.lr, config.batch_size) == (48, {4: 0.01}, {4: 8})
    assert config.metrics == ("swd",) and config.fmap_base == 256  # still chosen


@pytest.mark.parametrize(
    "options, loss, penalty, every",
    [
        ({}, "relativistic", "r1+r2", 8),
        ({"loss": "hinge"}, "hinge", "r1+r2", 8),
        ({"loss": "wgan-gp"}, "wgan-gp", "gp", 8),
        ({"loss": "wgan"}, "wgan", "clip", 1),
        ({"penalty": "none"}, "relativistic", "none", 1),
        ({"penalty": "r1", "penalty_every": "4"}, "relativistic", "r1", 4),
    ],
)
def test_the_recipe_gives_way_to_the_users_loss_and_penalty(
    options, loss, penalty, every, speeds, tmp_path, monkeypatch
):
    config = resolve(tmp_path, monkeypatch, budget="1h", resolution=8, **options)
    assert (config.loss, config.penalty, config.penalty_every) == (loss, penalty, every)


def test_a_resolution_out_of_reach_is_halved_and_reported(speeds, tmp_path, monkeypatch, capsys):
    config = resolve(tmp_path, monkeypatch, budget="2m")
    assert config.resolution == 16
    assert "out of reach in 2m" in capsys.readouterr().err
    assert resolve(tmp_path, monkeypatch, budget="2m", resolution=32, out="runs/insists").resolution == 32


def test_a_run_keeps_its_plan_when_the_machine_has_changed(speeds, tmp_path, monkeypatch):
    first = resolve(tmp_path, monkeypatch, budget="1h")
    record(first, tmp_path)
    speeds.update({r: speed / 10 for r, speed in speeds.items()})
    assert resolve(tmp_path, monkeypatch, budget="1h") == first
    assert first.out == "runs/synthetic-1h"


@pytest.mark.parametrize(
    "options, name",
    [
        ({"preset": "lsun", "resolution": 32}, "--preset"),
        ({"resume": "x.pt", "resolution": 8}, "--resume"),
        ({"total_kimg": 30}, "--total-kimg"),
        ({"growing": False}, "--no-growing"),
        ({"growth": "adaptive", "metric_every_kimg": 5}, "--growth adaptive"),
        ({"resolution": 48}, "--resolution: resolution 48"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_steps_are_timed(options, name, speeds, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "choose_options", None)
    with pytest.raises(ConfigError, match=name):
        resolve(tmp_path, monkeypatch, budget="1h", **options)


def test_a_config_file_is_planned_for_unless_it_has_a_plan(speeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"data": "synthetic", "channels": 3, "device": "cpu", "lr": 0.01, "budget": "1h"}))
    planned = resolve_budget({}, str(file))
    assert planned.lr == {4: 0.01} and planned.penalty_every == 8 and planned.total_kimg
    assert resolve_budget({"budget": "9d"}, str(file)).fmap_base > planned.fmap_base
    run = tmp_path / "runs" / "a"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(planned.to_dict()))
    assert resolve_budget({"out": "b"}, str(run / "config.json")) == replace(planned, out="b")
    start = {"out": "b", "resume": str(run), "resolution": 32}  # trains longer, by the same recipe
    assert resolve_budget(start, str(run / "config.json")) == replace(
        planned, out="b", resume=str(run), total_kimg=None
    )
    for other, where in (({"budget": "2h"}, f" in {run / 'config.json'}"), ({"total_kimg": 5}, "")):
        with pytest.raises(ConfigError, match=f"omit --total-kimg{where}, or omit --budget"):
            resolve_budget(other, str(run / "config.json"))


def test_the_end_leaves_time_for_the_last_evaluation():
    assert find_end(1000.0, elapsed=500.0, evaluation=80.0, seconds_per_image=0.1, images=5000) == 5000 + 4000
    assert find_end(1000.0, elapsed=5000.0, evaluation=80.0, seconds_per_image=0.1, images=5000) == 5000


def test_the_last_stage_ends_when_the_time_is_used_up(tmp_path, monkeypatch, capsys):
    """Here the time is used up after 700 images; the plan's end is 2,000."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def find_end(seconds, elapsed, evaluation, seconds_per_image, images):
        calls.append((seconds, elapsed, seconds_per_image))
        return 700

    monkeypatch.setattr(loop, "find_end", find_end)
    lengths = {"fade_kimg": 0.1, "stabilize_kimg": 0.1, "total_kimg": 2.0, "tick_kimg": 0.1, "decay_kimg": 0.2}
    small = {"resolution": 8, "channels": 3, "fmap_base": 32, "fmap_max": 8, "batch_size": 8, "lr": 0.001}
    config = TrainConfig(
        data="synthetic", budget="1h", out="run", device="cpu", track="none", metrics="none", **lengths, **small
    )
    train(config)
    assert set(re.findall(r"left in this stage, (\d+m) .* in total", capsys.readouterr().err)) == {"59m"}
    state = checkpoints.load(tmp_path / "run" / "checkpoints" / "latest.pt")["state"]
    assert 700 <= state["images"] < 700 + 32 and state["stage_ends"] == {8: 700}
    assert all(seconds == 3600 and 0 < elapsed < 60 and each > 0 for seconds, elapsed, each in calls)
    assert calls[-1][1] <= state["elapsed"] < 60
    train(config)  # the end is part of the state
    message = capsys.readouterr().err
    assert "run has finished: it has seen 0.7" in message
    assert "use --config run/config.json --out ANOTHER --resume run to train longer" in message
    plan = read_plan(config.to_dict(), checkpoints.load(tmp_path / "run" / "checkpoints" / "latest.pt"))
    assert plan and plan.total_images == 700
    rows = build_plan_rows(config.to_dict(), read_lines(tmp_path / "run" / "metrics.jsonl"))
    assert rows[-1].end == state["images"]
