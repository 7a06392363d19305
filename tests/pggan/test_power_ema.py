import numpy as np
import pytest
import torch
from test_steps import FADING, make_batch, make_state, make_stepper

from pggan.__main__ import main
from pggan.checkpoints import RunDirectory
from pggan.config import ConfigError, resolve_config
from pggan.training import train
from pggan.training.power_ema import STDS, Snapshot, compute_decays, compute_exponent, solve_weights
from pggan.use.ema import MAX_ERROR, write_averages
from pggan.use.trained import load


def test_exponents_are_the_published_ones():
    # Karras et al. 2024, section 3.1: 0.05 and 0.10 are gamma = 16.97 and 6.94
    assert compute_exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert compute_exponent(0.10) == pytest.approx(6.94, abs=0.005)


def average_directly(path, std, end):
    """Average a path of weights [T, n] by its definition: weights proportional to s^gamma."""
    times = np.arange(1, end + 1) - 0.5
    weights = times ** compute_exponent(std)
    return weights @ path[:end] / weights.sum()


def test_updates_follow_the_definition():
    path = np.cumsum(np.random.default_rng(0).standard_normal((400, 5)), 0)
    for index, std in enumerate(STDS):
        average = np.zeros(5)
        for step in range(400):
            average += (1 - compute_decays(8 * (step + 1), 8)[index]) * (path[step] - average)
        assert np.allclose(average, average_directly(path, std, 400), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("std, error", [(0.05, 1e-9), (0.075, 1e-2), (0.15, 1e-2), (0.2, 1e-2)])
def test_other_lengths_are_reconstructed_from_snapshots(std, error):
    path = np.cumsum(np.random.default_rng(1).standard_normal((1000, 20)), 0)
    snapshots = [Snapshot(kept, time) for time in range(50, 1001, 50) for kept in STDS]
    stored = np.stack([average_directly(path, *snapshot) for snapshot in snapshots])
    weights, relative = solve_weights(snapshots, Snapshot(std, 1000))
    found, expected = weights @ stored, average_directly(path, std, 1000)
    assert relative < max(2 * error, 1e-6)
    assert np.linalg.norm(found - expected) < error * np.linalg.norm(expected - path[-1])


@pytest.mark.parametrize("count", [3, 5, 20])
@pytest.mark.parametrize("std", [0.005, 0.02, 0.05, 0.15, 0.25])
def test_weights_of_a_reconstruction_sum_to_one(count, std):
    snapshots = [Snapshot(kept, 100 * time) for time in range(1, count + 1) for kept in STDS]
    weights, error = solve_weights(snapshots, Snapshot(std, 100 * count))
    assert weights.sum() == pytest.approx(1)
    assert (error > MAX_ERROR) == ((count, std) in UNREPRESENTABLE)


UNREPRESENTABLE = {(3, 0.005), (3, 0.02), (3, 0.25), (5, 0.005), (5, 0.02), (5, 0.25), (20, 0.005)}


def test_a_step_updates_both_averages():
    state, stepper = make_state(power_ema=True), make_stepper()
    for step in range(1, 4):
        before = {std: average.to_rgb[0].weight.clone() for std, average in state.power_averages.items()}
        stepper.step(state, make_batch(), FADING)
        for decay, (std, average) in zip(compute_decays(8 * step, 8), state.power_averages.items(), strict=True):
            expected = decay * before[std] + (1 - decay) * state.G.to_rgb[0].weight
            assert torch.allclose(average.to_rgb[0].weight, expected, atol=1e-6)


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("power-ema")
    options = {"data": "synthetic", "channels": 3, "resolution": 8, "fmap_base": 32, "fmap_max": 8, "batch_size": 8}
    options |= {"fade_kimg": 0.16, "stabilize_kimg": 0.16, "tick_kimg": 0.064, "power_ema": True, "metrics": "none"}
    options |= {"track": "none", "precision": "fp32", "out": str(folder / "run")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGGAN_CACHE", str(cache))
        train(resolve_config(options))
    return RunDirectory(folder / "run")


def test_a_kept_length_is_the_average_of_the_run(run):
    (path,) = write_averages(run, [STDS[0]])
    saved = torch.load(run.latest, weights_only=True)["state"]["power_averages"][f"{STDS[0]:g}"]
    ours = torch.load(path, weights_only=True)["state"]["G_ema"]
    assert all(torch.allclose(ours[name], value, rtol=1e-3, atol=1e-5) for name, value in saved.items())  # float16


def test_ema_writes_checkpoints_that_other_commands_accept(run, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pggan", "ema", str(run.folder), "--std", "0.1,0.2", "--images", "200"])
    main()
    printed = capsys.readouterr()
    assert printed.err.startswith("averaging up to 192 images, the last snapshot before 200\n")
    paths = printed.out.split()
    assert [path.rsplit("/")[-1] for path in paths] == ["ema-0.100.pt", "ema-0.200.pt"]
    assert load(paths[1]).images == 192 and load(paths[1]).sample(2).shape == (2, 3, 4, 4)  # of the stage at the time


@pytest.mark.parametrize("options", [{"n_critic": 5}, {"resolution": 16, "stabilize_kimg": 0.4}])
def test_the_averages_of_a_run_from_a_checkpoint_begin_with_it(run, tmp_path, cache, monkeypatch, options):
    """Also with fewer updates of G than of D, and at a higher resolution, where the old averages do not fit."""
    monkeypatch.setenv("PGGAN_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    config = {"data": "synthetic", "out": "b", "resume": str(run.folder), "power_ema": True, "metrics": "none"}
    config |= {"track": "none", "precision": "fp32", "tick_kimg": 0.064, "batch_size": 8, "fade_kimg": 0.16}
    train(resolve_config({"stabilize_kimg": 0.32} | config | options))
    new = RunDirectory(tmp_path / "b")
    state = torch.load(new.latest, weights_only=True)["state"]
    assert state["start"] > 0 and len(new.average_paths()) >= 4
    (path,) = write_averages(new, [STDS[1]])
    ours = torch.load(path, weights_only=True)["state"]["G_ema"]
    kept = state["power_averages"][f"{STDS[1]:g}"]
    assert all(torch.allclose(ours[name], value, rtol=1e-2, atol=1e-3) for name, value in kept.items())
    begin = min(torch.load(p, weights_only=True)["start"] for p in new.average_paths())
    assert begin == state["start"]


def test_the_first_update_of_averages_replaces_them():
    state, stepper = make_state(power_ema=True), make_stepper()
    state.images = state.previous = state.start = state.averaged = 800
    for average in state.power_averages.values():
        torch.nn.init.constant_(average.to_rgb[0].weight, 1e6)
    stepper.step(state, make_batch(), FADING)
    for average in state.power_averages.values():
        assert torch.allclose(average.to_rgb[0].weight, state.G.to_rgb[0].weight)


def test_runs_without_snapshots_are_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="no snapshots up to 3 images"):
        write_averages(run, [0.1], 3)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="train with --power-ema"):
        write_averages(RunDirectory(tmp_path), [0.1])
