"""Check the remaining time that is estimated at each tick of recorded runs."""

import json
from pathlib import Path

import pytest

from pggan.config import resolve_config
from pggan.training.growth import GrowthController
from pggan.training.remaining import count_evaluations_left, estimate_seconds_left, estimate_stage_times

RECORDED = Path(__file__).parent / "recorded"
OPTIONS = {  # of the recorded runs
    "data": "synthetic",
    "resolution": 32,
    "channels": 3,
    "batch_size": 8,
    "fade_kimg": 4,
    "stabilize_kimg": 4,
    "total_kimg": 40,
}
PLAN = GrowthController(resolve_config(OPTIONS))


def read_recording(name):
    """Return a run's trial, its ticks and evaluations in order, and its end in seconds since its start."""
    first, *events, end = map(json.loads, (RECORDED / name).read_text().splitlines())
    return {int(r): seconds for r, seconds in first["trial"].items()}, events, end["at"]


def estimate(trial, events):
    """Return the estimated seconds left after the last of these events, a tick."""
    ticks = [event for event in events if "images_per_second" in event]
    evaluations = [event["evaluation_seconds"] for event in events if "evaluation_seconds" in event]
    images = ticks[-1]["images"]
    _, training = estimate_seconds_left(PLAN, estimate_stage_times(trial, ticks), images, 32)
    return training + count_evaluations_left(PLAN, images, images in PLAN.stage_ends) * (
        evaluations[-1] if evaluations else 0.0
    )


def collect_estimates(name, trial=None):
    """Yield (kimg, seconds left, estimated seconds left) from the second tick to the last evaluation."""
    recorded_trial, events, end = read_recording(name)
    ticks = [i for i, event in enumerate(events) if "images_per_second" in event]
    for i in ticks[1:]:
        yield events[i]["images"] / 1000, end - events[i]["at"], estimate(trial or recorded_trial, events[: i + 1])


@pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.glob("*.jsonl")))
def test_remaining_time_is_within_a_quarter_from_the_second_tick_on(name):
    found = list(collect_estimates(name))
    assert len(found) > 15
    wrong = [
        f"at {kimg:g} kimg {guess:.0f} s, not {left:.0f}"
        for kimg, left, guess in found
        if compute_relative_error(left, guess) > 0.25
    ]
    assert not wrong


def compute_relative_error(left, guess):
    return abs(guess - left) / left


def test_a_resumed_run_estimates_from_its_log():
    """Without a trial, estimates are right once three ticks of the longest stage are logged."""
    name = "demo.jsonl"
    costs = dict.fromkeys(read_recording(name)[0], 1.0)
    assert all(
        compute_relative_error(left, guess) < 0.25 for kimg, left, guess in collect_estimates(name, costs) if kimg > 25
    )


def make_tick(resolution, speed):
    return {"resolution": resolution, "images_per_second": speed}


def test_the_trial_is_corrected_by_the_median_of_the_last_ticks():
    trial = {4: 1.0, 8: 2.0, 16: 6.0}
    assert estimate_stage_times(trial, []) == trial
    assert estimate_stage_times(trial, [make_tick(4, 0.5)]) == {4: 2.0, 8: 4.0, 16: 12.0}
    one_slow_tick = [make_tick(4, 1.0), make_tick(4, 1.0), make_tick(8, 0.1)]
    assert estimate_stage_times(trial, one_slow_tick) == trial
    slow_stage = [make_tick(4, 1.0)] * 9 + [make_tick(8, 0.1)] * 3
    assert estimate_stage_times(trial, slow_stage)[8] == 10.0
    assert estimate_stage_times(trial, [make_tick(8, 0.0), make_tick(64, 1.0)]) == trial


def test_remaining_time_is_summed_by_stage():
    times = {4: 1.0, 8: 2.0, 16: 3.0, 32: 4.0}
    assert estimate_seconds_left(PLAN, times, 0, 4) == (4000, 4000 + 16000 + 24000 + 80000)
    assert estimate_seconds_left(PLAN, times, 39_000, 32) == (4000, 4000)
    assert estimate_seconds_left(PLAN, times, 40_008, 32) == (0, 0)


@pytest.mark.parametrize(
    "images, is_due, every, left", [(0, False, None, 4), (4000, True, None, 4), (5000, False, 6, 8)]
)
def test_evaluations_left_are_counted(images, is_due, every, left):
    plan = GrowthController(resolve_config(OPTIONS | ({"metric_every_kimg": every} if every else {})))
    assert count_evaluations_left(plan, images, is_due) == left
