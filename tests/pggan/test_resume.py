"""How a run starts, without training: its end, the networks it can start from, and its errors."""

import shlex
from dataclasses import replace

import pytest

from pggan.checkpoints import CheckpointError, RunDirectory
from pggan.config import NETWORK_OPTIONS, ConfigError, name_network_options, resolve_config
from pggan.training.growth import GrowthController
from pggan.training.resume import (
    check_end,
    check_networks,
    describe_finished_run,
    resolve_resumed_config,
    resolve_total_kimg,
)
from pggan.training.state import network_arguments

SMALL = {
    "data": "synthetic",
    "resolution": 16,
    "channels": 3,
    "fmap_base": 64,
    "fmap_max": 8,
    "batch_size": 8,
    "fade_kimg": 4,
    "stabilize_kimg": 4,
    "resume": "other.pt",
}


def make_config(**options):
    return resolve_config(SMALL | options)


def find_end(images, is_last_stage=True, **options):
    chosen = make_config(**options)
    plan = GrowthController(replace(chosen, total_kimg=None))
    return resolve_total_kimg(chosen, plan, images, is_last_stage).total_kimg


@pytest.mark.parametrize("options", [{}, {"preset": "cifar10-cpu"}, {"preset": "cifar10-cpu", "total_kimg": 72}])
def test_a_run_from_a_finished_one_trains_one_more_stage(options):
    assert find_end(40_000, **options) == 44 and find_end(39_968, **options) == 43.968
    assert find_end(40_000, stabilize_kimg=1.5, **options) == 41.5
    assert find_end(40_000, stabilize_kimg="4:3,16:2", **options) == 42
    assert find_end(1_000_000, **options) == 1004


def test_a_run_from_an_earlier_stage_trains_to_the_end_of_the_schedule():
    assert find_end(4_000, is_last_stage=False) == 20  # 4, then twice 4 of fading and 4 of stabilizing
    assert find_end(4_000, is_last_stage=False, preset="cifar10-cpu") == 72
    assert (
        find_end(17_000, preset="cifar10-cpu") == find_end(17_000) == 21
    )  # in the last stage, a preset's total has no say


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fmap_base": 64, "fmap_max": 8, "latent_size": 12, "minibatch_stddev": False},
        {"pixel_norm": False, "equalized_lr": False, "fused_scale": False, "first_layer": "no-norm"},
        {"arch": "mlp", "hidden": "9,8", "d_hidden": "7"},
        {"arch": "msg", "fmap_max": 16},
        {"arch": "dcgan"},
        {"arch": "r3gan"},
    ],
)
def test_network_options_are_read_back_from_a_checkpoints_networks(options):
    networks = network_arguments(make_config(**options), 0)
    named = {k: v for k, v in name_network_options(networks).items() if k in NETWORK_OPTIONS | {"arch"}}
    assert network_arguments(make_config(**named), 0) == networks


def test_a_specified_end_is_used_if_it_leaves_something_to_train():
    assert find_end(40_000, total_kimg=40.5) == 40.5 and find_end(4_000, is_last_stage=False, total_kimg=19) == 19
    for total in (40, 20):
        with pytest.raises(ConfigError, match=r"--total-kimg.* use --total-kimg 44 to train 4 kimg more"):
            find_end(40_000, total_kimg=total)


def test_the_same_command_resumes_with_the_settled_end(tmp_path):
    run = RunDirectory(tmp_path / "run")
    original = make_config(out=str(run.folder), resume=str(tmp_path / "other.pt"))
    run.create(replace(original, total_kimg=44.0).to_dict())
    assert resolve_resumed_config(run, original).total_kimg == 44
    assert resolve_resumed_config(run, replace(original, resume=None)) == replace(original, total_kimg=44.0)
    assert resolve_resumed_config(run, replace(original, total_kimg=50.0)).total_kimg == 50
    assert "use --total-kimg 48 to train longer" in describe_finished_run(original, GrowthController(original), 44_000)


def test_the_end_of_a_run_cannot_move_once_its_learning_rates_decay():
    def check(images, total_kimg, decay_kimg=10):
        config = make_config(out="runs/a b", resume=None, total_kimg=total_kimg, decay_kimg=decay_kimg)
        content = {"images": images, "state": {"previous": images - 32}, "config": {"total_kimg": 40}}
        check_end(content, config)

    check(30_000, 50)
    check(35_000, 40)
    check(40_000, 50, decay_kimg=0)
    for images, total_kimg in [(30_001, 50), (40_000, 50), (35_000, 36)]:
        with pytest.raises(
            ConfigError, match=r"--total-kimg: .* decaying since 30 .* use --total-kimg 40, or .* --resume 'runs/a b'$"
        ):
            check(images, total_kimg)
    finished = make_config(out="runs/a", total_kimg=40, decay_kimg=10)
    assert "; use --out ANOTHER --resume runs/a to" in describe_finished_run(
        finished, GrowthController(finished), 40_000
    )


def test_a_run_from_scratch_keeps_following_its_options(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(make_config(resume=None, total_kimg=30).to_dict())
    assert resolve_resumed_config(run, make_config(resume=None)).total_kimg is None


def test_a_run_begun_when_all_stages_had_one_length_still_resumes(tmp_path):
    run, config = RunDirectory(tmp_path / "run"), make_config(resume=None)
    run.create(config.to_dict() | {"fade_kimg": 4.0, "stabilize_kimg": 4})
    assert resolve_resumed_config(run, config) == config
    with pytest.raises(ConfigError, match="--stabilize-kimg: 4 -> 4:4,8:5"):
        resolve_resumed_config(run, make_config(resume=None, stabilize_kimg="4:4,8:5"))


def test_an_unused_ada_target_of_an_earlier_version_does_not_matter(tmp_path):
    run, config = RunDirectory(tmp_path / "run"), make_config(resume=None)
    assert config.ada_target == 0.5
    run.create(config.to_dict() | {"ada_target": 0.6})
    assert resolve_resumed_config(run, config) == config
    run.create(config.to_dict() | {"ada_target": 0.6, "augment": "ada"})
    with pytest.raises(ConfigError, match=r"--ada-target: 0\.6 -> 0\.5"):
        resolve_resumed_config(run, replace(config, augment="ada"))


@pytest.mark.parametrize("spelling", ["", "/", "/checkpoints", "/checkpoints/latest.pt", "/checkpoints/stage-0008.pt"])
def test_a_run_cannot_start_from_its_own_checkpoint(tmp_path, monkeypatch, spelling):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(tmp_path / "run")
    run.create(make_config(resume=None).to_dict())
    (tmp_path / "link").symlink_to("run")
    for folder in ("run", "./run", "link", tmp_path / "run"):
        with pytest.raises(ConfigError) as error:
            resolve_resumed_config(run, make_config(resume=f"{folder}{spelling}"))
        assert "without --resume" in str(error.value) and "None" not in str(error.value)


def test_the_path_a_run_started_from_may_be_spelled_differently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("runs/new")
    run.create(
        make_config(resume="runs/old/checkpoints/latest.pt", out="runs/new").to_dict()
    )  # relative, as earlier versions wrote it
    for spelling in (tmp_path / "runs/old/checkpoints/latest.pt", "./runs/old", "runs/../runs/old/"):
        assert resolve_resumed_config(run, make_config(resume=str(spelling))).resume == "runs/old/checkpoints/latest.pt"
    with pytest.raises(ConfigError, match=r"was started from runs/old/checkpoints/latest.pt, not from runs/older"):
        resolve_resumed_config(run, make_config(resume="runs/older"))


@pytest.mark.parametrize(
    "before, now, remedy",
    [
        ({"fmap_max": 4}, {}, "--fmap-max 4"),
        ({"fmap_base": 32, "latent_size": 12}, {"fmap_max": 4}, "--fmap-base 32 --fmap-max 8 --latent-size 12"),
        ({"resolution": 32}, {}, "--resolution 32"),
        ({"channels": 1}, {}, "--channels 1"),
        ({"fused_scale": False}, {}, "--no-fused-scale"),
        ({}, {"pixel_norm": False}, "--pixel-norm"),
        ({"minibatch_stddev": False}, {}, "--no-minibatch-stddev"),
        ({}, {"minibatch_stddev": False}, "--minibatch-stddev"),
        ({"arch": "msg"}, {}, "--arch msg"),
        ({"arch": "mlp", "d_hidden": "9,8"}, {"arch": "mlp", "hidden": "7"}, "--hidden 256,256,256,128 --d-hidden 9,8"),
        ({"arch": "dcgan"}, {"arch": "dcgan", "resolution": 32}, "--resolution 16"),
    ],
)
def test_incompatible_networks_are_rejected_with_the_options_to_use(before, now, remedy):
    saved = network_arguments(make_config(**before), 0)
    with pytest.raises(CheckpointError) as error:
        check_networks("x.pt", saved, network_arguments(make_config(**now), 2))
    assert str(error.value).endswith(f"; use {remedy}")


def test_compatible_networks_are_accepted():
    expected = network_arguments(make_config(resolution=32, mbstd_group=8), 2)
    check_networks("x.pt", network_arguments(make_config(), 0), expected)
    check_networks("x.pt", {"generator": network_arguments(make_config(), 0)["generator"]}, expected)


def test_the_remedy_can_be_pasted_whatever_the_folder_is_called(tmp_path):
    run = RunDirectory(tmp_path / "Ann's run")
    original = make_config(out=str(run.folder))
    run.create(original.to_dict())
    with pytest.raises(ConfigError, match="other options") as error:
        resolve_resumed_config(run, replace(original, batch_size={4: 16}))
    remedy = str(error.value).splitlines()[-1].split("its weights with ")[1].removesuffix(")")
    assert shlex.split(remedy) == ["--resume", str(run.latest)]


def test_a_run_without_a_checkpoint_is_not_advised_to_continue(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create(make_config(out=str(run.folder), resume="moved.pt").to_dict())
    with pytest.raises(ConfigError, match=r"not from here\.pt; add --out ANOTHER"):
        resolve_resumed_config(run, make_config(out=str(run.folder), resume="here.pt"))
    run.latest.touch()
    with pytest.raises(ConfigError, match="without --resume to resume that run, or add --out ANOTHER"):
        resolve_resumed_config(run, make_config(out=str(run.folder), resume="here.pt"))


def test_a_changed_budget_is_refused_with_a_command_that_works(tmp_path):
    config = make_config(resume=None, budget="1h", out=str(tmp_path / "run"))
    run = RunDirectory(tmp_path / "run")
    run.create(config.to_dict())
    with pytest.raises(ConfigError) as error:
        resolve_resumed_config(run, replace(config, budget="2h"))
    assert "--budget: 1h -> 2h" in str(error.value)
    assert str(error.value).endswith(
        f"--config {run.folder}/config.json --out ANOTHER --resume {run.folder} to train it for another 1h"
    )
