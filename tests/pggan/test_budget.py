"""--budget: durations, the plan from measured speeds, and the end of the last stage."""

import json

import pytest

from pggan import checkpoints
from pggan.config import ConfigError, TrainConfig, parse_duration
from pggan.training import budget, loop, train
from pggan.training.budget import find_end, plan_stages, resolve_budget, share_time
from pggan.training.growth import GrowthController

IMAGES_PER_SECOND = {4: 4000, 8: 2000, 16: 400, 32: 100, 64: 20}  # of networks with --fmap-base 512


@pytest.fixture
def speeds(monkeypatch):
    """Replace the timing of steps: half the speed with twice the width."""
    monkeypatch.setattr(budget, "measure_matrix_rate", lambda *_: 1e11)
    table = dict(IMAGES_PER_SECOND)

    def measure_speed(config, classes, device, processes):
        return {r: config.fmap_base / 512 / table[r] / processes for r in table if r <= config.resolution}

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
    chosen = plan_stages(times, training=1000.0, batch_size={4: 16}, repeats=4)
    seconds = {r: 1000 * (chosen["fade_kimg"][r] + chosen["stabilize_kimg"][r]) * times[r] for r in times}
    assert list(seconds.values()) == pytest.approx([1000 * share for share in share_time(4)], rel=0.01)
    assert sum(share_time(4)) == pytest.approx(1) and share_time(1) == [1.0]
    assert chosen["fade_kimg"][4] == 0 and all(chosen["fade_kimg"][r] > 0 for r in (8, 16, 32))
    assert 0 < chosen["decay_kimg"] < chosen["fade_kimg"][32] + chosen["stabilize_kimg"][32]
    assert 0.9 < chosen["ema_decay"] < 1


def test_no_stage_is_shorter_than_an_update_of_the_schedule():
    chosen = plan_stages({4: 1.0, 8: 1.0, 16: 1.0}, training=10.0, batch_size={4: 16}, repeats=4)
    GrowthController(TrainConfig(resolution=16, channels=3, batch_size=16, lr=0.001, tick_kimg=1, **chosen))


def test_more_time_buys_wider_networks(speeds, tmp_path, monkeypatch):
    times = "10m", "1h", "10h", "9d"
    widths = [resolve(tmp_path, monkeypatch, budget=time, resolution=32).fmap_base for time in times]
    assert widths == sorted(widths) and len(set(widths)) > 2 and widths[-1] == 8192


def test_specified_options_win(speeds, tmp_path, monkeypatch):
    options = {"fmap_max": 48, "lr": 0.01, "batch_size": "4:8", "metrics": "swd", "total_kimg": 3000.0}
    config = resolve(tmp_path, monkeypatch, budget="1h", resolution=32, **options)
    assert (config.fmap_max, config.lr, config.batch_size) == (48, {4: 0.01}, {4: 8})
    assert (config.metrics, config.total_kimg) == (("swd",), 3000.0)


def test_a_resolution_out_of_reach_is_halved_and_reported(speeds, tmp_path, monkeypatch, capsys):
    config = resolve(tmp_path, monkeypatch, budget="2m")
    assert config.resolution == 16
    assert "out of reach in 2m" in capsys.readouterr().err
    assert resolve(tmp_path, monkeypatch, budget="2m", resolution=32, out="runs/insists").resolution == 32


def test_a_run_keeps_its_plan_when_the_machine_has_changed(speeds, tmp_path, monkeypatch):
    first = resolve(tmp_path, monkeypatch, budget="1h")
    (tmp_path / first.out).mkdir(parents=True)
    (tmp_path / first.out / "config.json").write_text(json.dumps(first.to_dict()))
    speeds.update({r: speed / 10 for r, speed in speeds.items()})
    assert resolve(tmp_path, monkeypatch, budget="1h") == first
    assert first.out == "runs/synthetic-1h"


@pytest.mark.parametrize(
    "options", [{"preset": "lsun", "resolution": 32}, {"resume": "x.pt", "resolution": 8}, {"growing": False}]
)
def test_what_cannot_be_planned_is_refused(options, speeds, tmp_path, monkeypatch):
    with pytest.raises(Exception, match=r"--budget|x"):
        resolve(tmp_path, monkeypatch, budget="1h", **options)


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
        data="synthetic", budget="60s", out="run", device="cpu", track="none", metrics="none", **lengths, **small
    )
    train(config)
    state = checkpoints.load(tmp_path / "run" / "checkpoints" / "latest.pt")["state"]
    assert 700 <= state["images"] < 700 + 32 and state["stage_ends"] == {8: 700}
    assert all(seconds == 60 and 0 < elapsed < 60 and each > 0 for seconds, elapsed, each in calls)
    assert calls[-1][1] <= state["elapsed"] < 60
    train(config)  # the end is part of the state
    assert "run has finished: it has seen 0.7" in capsys.readouterr().err
