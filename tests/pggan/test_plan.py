from unittest import mock

import pytest
import torch

from pggan.config import resolve_config
from pggan.training import plan
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


def run_trial(config, seconds, costs=None):
    """Return a trial's list of (resolution, whether it was timed) and the batch sizes it used."""
    state, batches = TrainState(config, 0, CPU), []
    costs = costs or compute_costs_per_image(state.arguments)

    def time_step(config, stepper, state, phase):
        batches.append(phase.batch_size)
        return phase.batch_size * costs[phase.resolution] * plan.STEP_COST / RATE

    with (
        mock.patch.object(plan, "time_step", time_step),
        mock.patch.object(plan, "measure_matrix_rate", lambda *_: RATE),
    ):
        found = list(time_stages(config, GrowthController(config), state, costs, seconds))
    assert all(each == pytest.approx(plan.STEP_COST * costs[r] / RATE, rel=1e-6) for r, each, timed in found if timed)
    return [(resolution, timed) for resolution, _, timed in found], batches


RATE = 1e9  # floating-point operations per second of the simulated machine


def test_stages_are_timed_with_the_largest_batches_the_time_allows():
    config = resolve_config({"data": "synthetic", "resolution": 32, "channels": 3, "fmap_max": 32, "batch_size": 16})
    costs = {4: 1e5, 8: 1e6, 16: 1e7, 32: 1e9}  # of 16 images at 16x16: 1.4 s a step
    all_timed = [(r, True) for r in (4, 8, 16, 32)]
    assert run_trial(config, 1e5, costs) == (all_timed, [16, 16, 16, 16])
    assert run_trial(config, 4.0, costs) == ([*all_timed[:3], (32, False)], [16, 16, 4])
    assert run_trial(config, 0.0, costs) == ([(r, False) for r in (4, 8, 16, 32)], [])


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
