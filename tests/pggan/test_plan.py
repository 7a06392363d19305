from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from pggan.config import resolve_config
from pggan.training import loop, plan
from pggan.training.batch import Batch
from pggan.training.growth import GrowthController
from pggan.training.plan import LiveBytes, compute_costs_per_image, estimate_memory, time_stages, try_stages
from pggan.training.ranks import SINGLE_PROCESS
from pggan.training.state import TrainState, network_arguments
from pggan.training.steps import Stepper

CPU = torch.device("cpu")


def measure_peak(config, phase):
    """Return the peak number of tensor bytes over two real steps."""
    with LiveBytes() as live:
        state = TrainState(config, 0, torch.device("cpu"))
        size, side = phase.batch_size, phase.resolution
        images = torch.randint(256, (size, 3, side, side), dtype=torch.uint8)
        for _ in range(2):
            Stepper.from_config(config, False).step(
                state, Batch(images, None, SINGLE_PROCESS.share(size, config.mbstd_group)), phase
            )
    return live.peak


@pytest.mark.parametrize("options", [{}, {"batch_size": 32}, {"batch_size": 32, "micro_batch": 8}])
def test_estimated_memory_matches_the_peak_of_real_steps(options):
    all_options = {"data": "synthetic", "resolution": 16, "channels": 3, "fmap_max": 32, "batch_size": 8} | options
    config = resolve_config(all_options)
    phase = GrowthController(config).phase(GrowthController(config).find_position(16, 0.5))
    state = TrainState(config, 0, torch.device("cpu"))
    assert estimate_memory(config, state, phase, False) == pytest.approx(measure_peak(config, phase), rel=0.01)
    assert state.images == 0 and all(p.grad is None for p in state.D.parameters())


@pytest.mark.parametrize("free, exceeds", [(0, False), (2**20, True), (2**40, False)])  # 0: unknown
def test_whether_the_last_stage_fits_in_memory(free, exceeds, monkeypatch):
    monkeypatch.setattr(plan, "read_usable_memory", lambda device: free)
    config = resolve_config({"data": "synthetic", "resolution": 16, "channels": 3, "fmap_max": 32, "batch_size": 8})
    assert plan.exceeds_memory(config, TrainState(config, 0, CPU)) == exceeds


def run_trial(config, seconds, costs=None, device=CPU):
    """Return a trial's list of (resolution, whether it was timed) and the batch sizes it used."""
    state, batches = TrainState(config, 0, CPU), []
    state.device = device
    costs = costs or compute_costs_per_image(state.arguments)

    def time_step(config, stepper, state, phase):
        batches.append(phase.batch_size)
        return phase.batch_size * costs[phase.resolution] * plan.STEP_COST / RATE

    with (
        mock.patch.object(plan, "time_step", time_step),
        mock.patch.object(plan, "measure_matrix_rate", lambda *_: RATE),
        mock.patch.object(plan, "release_unused_memory"),
    ):
        found = list(time_stages(config, GrowthController(config), state, costs, seconds))
    assert all(each == pytest.approx(plan.STEP_COST * costs[r] / RATE, rel=1e-6) for r, each, timed in found if timed)
    return [(resolution, timed) for resolution, _, timed in found], batches


@pytest.mark.parametrize("processes, images", [(1, 16), (2, 8), (3, 8), (8, 4)])
def test_the_process_with_the_most_groups_sets_the_time(processes, images):
    """A batch of 16 has 4 groups; with 8 processes, half of them have none."""
    config = resolve_config({"data": "synthetic", "resolution": 4, "channels": 3, "fmap_max": 8, "batch_size": 16})
    state, sizes = TrainState(config, 0, CPU), []
    with mock.patch.object(plan, "time_step", lambda *arguments: sizes.append(arguments[-1].batch_size) or 0.5):
        ((_, seconds, _),) = time_stages(config, GrowthController(config), state, {4: 1e3}, 1e5, processes)
    assert sizes == [images] and seconds == pytest.approx(0.5 / 16)


RATE = 1e9  # floating-point operations per second of the simulated machine


def test_stages_are_timed_with_the_largest_batches_the_time_allows():
    config = resolve_config({"data": "synthetic", "resolution": 32, "channels": 3, "fmap_max": 32, "batch_size": 16})
    costs = {4: 1e5, 8: 1e6, 16: 1e7, 32: 1e9}  # of 16 images at 16x16: 1.4 s a step
    all_timed = [(r, True) for r in (4, 8, 16, 32)]
    assert run_trial(config, 1e5, costs) == (all_timed, [16, 16, 16, 16])
    assert run_trial(config, 4.0, costs) == ([*all_timed[:3], (32, False)], [16, 16, 4])
    assert run_trial(config, 0.0, costs) == ([(r, False) for r in (4, 8, 16, 32)], [])


def test_on_a_gpu_stages_are_timed_with_their_own_batches_or_not_at_all():
    config = resolve_config({"data": "synthetic", "resolution": 32, "channels": 3, "fmap_max": 32, "batch_size": 16})
    costs = {4: 1e5, 8: 1e6, 16: 1e7, 32: 1e9}
    found = [(4, True), (8, True), (16, False), (32, False)]  # a CPU would time 4 images at 16x16
    assert run_trial(config, 4.0, costs, torch.device("cuda")) == (found, [16, 16])


class SlowDevice:
    """Stand in for a clock and for steps that a GPU takes long after the host has launched them.

    Used as `skipped_in_a_row`, it waits for the GPU when a number is read from it.
    """

    def __init__(self, *step_seconds):
        self.now, self.busy_until, self.step_seconds = 0.0, 0.0, list(step_seconds)

    def perf_counter(self):
        return self.now

    def step(self, state, batch, phase, held_out=None):
        self.now += 0.01  # to launch it
        self.busy_until = max(self.busy_until, self.now) + self.step_seconds.pop(0)
        state.skipped_in_a_row, state.images = self, state.images + phase.batch_size

    def sum(self):
        return self

    max = sum

    def __float__(self):
        self.now = max(self.now, self.busy_until)
        return 0.0

    def __int__(self):
        return int(float(self))


@pytest.mark.parametrize("graphs", [False, True])
def test_a_timed_step_is_warmed_up_and_ends_when_the_gpu_is_done(monkeypatch, graphs):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8})
    warm_up = [9.0, 0.1, 0.1, 5.0] if graphs else [9.0]  # to choose kernels, and to capture a graph
    gpu, state, phase = SlowDevice(*warm_up, 2.0, 1.0), TrainState(config, 0, CPU), GrowthController(config).phase(0)
    monkeypatch.setattr(plan, "uses_graphs", lambda *_: graphs)
    monkeypatch.setattr(Stepper, "step", gpu.step)
    monkeypatch.setattr(plan, "time", gpu)
    assert plan.time_step(config, Stepper.from_config(config, False), state, phase) == pytest.approx(1.01)


def test_the_time_of_a_step_is_the_mean_of_steps_with_and_without_the_penalty(monkeypatch):
    options = {"resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8, "penalty_every": 4}
    config, seen = resolve_config({"data": "synthetic"} | options), []
    gpu, stepper = SlowDevice(9.0, 2.0, 2.0, 9.0, 1.0, 1.0), Stepper.from_config(config, False)

    def step(self, state, *arguments):
        seen.append(state.images)
        gpu.step(state, *arguments)

    monkeypatch.setattr(Stepper, "step", step)
    monkeypatch.setattr(plan, "time", gpu)
    seconds = plan.time_step(config, stepper, TrainState(config, 0, CPU), GrowthController(config).phase(0))
    assert seconds == pytest.approx((2.01 + 3 * 1.01) / 4)
    assert [stepper.is_penalty_step(images, 8) for images in seen] == [True] * 3 + [False] * 3


def test_the_seconds_of_a_stage_end_when_the_gpu_is_done(monkeypatch):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8})
    gpu, training = SlowDevice(1.0, 1.0, 1.0, 1.0), loop.Training.__new__(loop.Training)
    training.config, training.plan, training.state = config, GrowthController(config), TrainState(config, 0, CPU)
    training.stepper, training.held_out = SimpleNamespace(step=gpu.step), None
    training.feeder = SimpleNamespace(next_batch=lambda *_: None)
    monkeypatch.setattr(loop, "time", gpu)
    assert training.train_until_next_check(training.plan.phase(0)) == 0
    assert training.state.seconds == {4: pytest.approx(4.01)}


@pytest.mark.parametrize("usable, warns", [(0.001, True), (1000, False), (0, False)])
def test_the_plan_warns_of_stages_that_need_more_memory_than_there_is(monkeypatch, capsys, usable, warns):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 32, "batch_size": 64})
    monkeypatch.setattr(plan, "read_usable_memory", lambda device: usable * 2**30)
    monkeypatch.setattr(plan, "DRY_RUN_SECONDS", 1)
    plan.print_estimates(replace(config, precision="fp32"), GrowthController(config), TrainState(config, 0, CPU))
    assert (
        "warning: 4x4, 8x8 will probably run out of memory: 0.00 GiB are usable" in capsys.readouterr().out
    ) == warns


def test_on_a_gpu_the_memory_of_a_timed_stage_is_its_measured_peak_if_that_is_larger(monkeypatch, capsys):
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8})
    growth, state, calls = GrowthController(config), TrainState(config, 0, CPU), []
    peaks = iter([3 * 2**30, 0])
    monkeypatch.setattr(plan, "time_step", lambda *_: calls.append("time") or 0.1)
    monkeypatch.setattr(plan, "release_unused_memory", lambda device: calls.append("release"))
    monkeypatch.setattr(plan, "read_peak_memory", lambda device: next(peaks))
    monkeypatch.setattr(plan, "describe_device", lambda device: "a GPU")
    monkeypatch.setattr(plan, "measure_matrix_rate", lambda *_: 1e12)
    monkeypatch.setattr(plan, "read_usable_memory", lambda device: 0)
    monkeypatch.setattr(plan, "uses_graphs", lambda *_: False)
    monkeypatch.setattr(plan, "estimate_stage_memory", lambda *_: 2**30)
    monkeypatch.setattr(Stepper, "from_config", lambda *_, **__: None)
    state.device = torch.device("cuda")
    plan.print_estimates(replace(config, precision="fp32"), growth, state)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip().startswith(("4x4", "8x8"))]
    assert [row[1] for row in rows] == ["3.00", "1.00"]
    assert calls == ["release", "time"] * 2


def test_a_stage_that_runs_out_of_memory_is_extrapolated(monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError

    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8})
    state = TrainState(config, 0, CPU)
    monkeypatch.setattr(plan, "time_step", fail)
    costs = compute_costs_per_image(state.arguments)
    found = list(time_stages(config, GrowthController(config), state, costs, 10.0))
    assert [(resolution, timed) for resolution, _, timed in found] == [(4, False), (8, False)]
    assert found[1][1] / found[0][1] == pytest.approx(costs[8] / costs[4])


def test_short_runs_are_not_delayed_by_a_trial(monkeypatch):
    monkeypatch.setattr(plan, "TrainState", lambda *_: pytest.fail("built networks for a trial"))
    options = {"data": "synthetic", "resolution": 16, "channels": 3, "fmap_max": 8, "batch_size": 8}
    config = resolve_config(options | {"fade_kimg": 0.1, "stabilize_kimg": 0.1})
    found = try_stages(config, GrowthController(config), 0, CPU, 1)
    assert found == compute_costs_per_image(network_arguments(config, 0))


def test_real_steps_are_timed():
    config = resolve_config({"data": "synthetic", "resolution": 8, "channels": 3, "fmap_max": 8, "batch_size": 8})
    found = try_stages(config, GrowthController(config), 0, CPU, 1)
    assert list(found) == [4, 8] and all(1e-6 < seconds < 1 for seconds in found.values())


def test_freed_memory_no_longer_counts():
    with LiveBytes() as live:
        for _ in range(10):
            x = torch.ones(1000)
        x = x.view(10, 100)
    assert live.peak <= 2 * 4000
