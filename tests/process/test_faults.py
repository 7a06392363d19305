"""What happens to a run that lasts for days: each fault befalls a real process, and nothing is lost."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY
from PIL import Image
from test_stop_and_resume import assert_same_end, lines, stop_at_random_moment, without_times

from checkpoints import load

pytestmark = pytest.mark.faults
LONG = pytest.mark.long
FAULTY = Path(__file__).with_name("faulty.py")
SHORT = [*TINY, "--resolution", "8", "--fade-kimg", "0.1", "--stabilize-kimg", "0.1", "--tick-kimg", "0.03"]


@pytest.fixture(scope="session")
def short_run(tmp_path_factory, cache):
    """A run of 300 images that nothing befell."""
    from conftest import Commands

    folder = tmp_path_factory.mktemp("short")
    process = Commands(folder, cache).train(*SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    return folder / "run"


def weights(run):
    state = load(run / "checkpoints" / "latest.pt")["state"]
    return {f"{n}.{k}": v for n in ("G", "D", "G_ema") for k, v in state[n].items()}


def assert_same_weights(run, reference):
    ours, theirs = weights(run), weights(reference)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in ("log.jsonl", "metrics.jsonl"):
        assert without_times(run / name) == without_times(reference / name)


def assert_stopped(process, *says, code=1):
    assert process.returncode == code, process.err
    assert "Traceback" not in process.err, process.err
    assert all(text in process.err for text in says), process.err


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)


def test_a_second_process_is_refused_and_a_dead_one_is_no_obstacle(commands, finished_run, count_fault):
    run = commands.folder / "run"
    first = commands.start_training(*TINY, "--out", "run")
    wait_for((run / "log.jsonl").exists, first)
    first.send_signal(signal.SIGSTOP)  # alive, wherever it is
    second = commands.train(*TINY, "--out", "run")
    assert_stopped(second, f"run is in use by process {first.pid} on ", ", started 20", code=2)
    count_fault("two processes on one run directory")
    first.send_signal(signal.SIGCONT)
    first.kill()
    first.communicate()
    assert (run / "running.json").exists()
    assert commands.train(*TINY, "--out", "run").returncode == 0
    assert_same_end(run, finished_run)
    assert not (run / "running.json").exists()
    count_fault("lock left by a killed process")


def test_a_disk_that_is_full_for_a_while_costs_pictures_only(commands, short_run, count_fault):
    process = commands.run(FAULTY, "full:32:96", *SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    assert "cannot write a line of log.jsonl" in process.err and "was saved: writing works" in process.err
    assert "fakes-" in process.err and "Traceback" not in process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("disk full during log line, sample and checkpoint, then room again")


@pytest.mark.parametrize("since", [64, pytest.param(0, marks=LONG), pytest.param(200, marks=LONG)])
def test_a_disk_that_stays_full_stops_the_run_which_goes_on_once_there_is_room(commands, short_run, since, count_fault):
    process = commands.run(FAULTY, f"full:{since}", *SHORT, "--out", "run")
    assert_stopped(process, "cannot write run/checkpoints/latest.pt", "the same command")
    assert not list((commands.folder / "run").rglob(".*.writing"))
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("disk full to the end of a stage or run")


@pytest.mark.long
def test_a_real_disk_that_is_too_small(commands, short_run, count_fault):
    disk = commands.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount")
    try:
        process = commands.train(*SHORT, "--out", disk / "run")
        assert_stopped(process, "No space left on device", "the same command")
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        process = commands.train(*SHORT, "--out", disk / "run")
        assert process.returncode == 0, process.err
        assert_same_weights(disk / "run", short_run)
        count_fault("a full disk (tmpfs), later enlarged")
        assert "Traceback" not in process.err
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        assert_stopped(commands.train(*SHORT, "--out", disk / "run"), "cannot write the run directory", code=2)
        count_fault("read-only run directory")
    finally:
        subprocess.run(["umount", disk])


@pytest.mark.long
@pytest.mark.parametrize("track", ["none", "tensorboard"])
def test_a_run_directory_that_vanishes_stops_the_run(commands, track, count_fault):
    process = commands.run(FAULTY, "gone:100", *SHORT, "--track", track, "--out", "run")
    assert process.returncode == 1 and "run is gone" in process.err, process.err
    assert track != "none" or "Traceback" not in process.err  # TensorBoard's own thread shows one
    run = commands.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    os.rename(commands.folder / "run-moved", run)
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    count_fault("run directory moved away and back")


@pytest.mark.parametrize(
    "manner", ["hanging", *(pytest.param(name, marks=LONG) for name in ("failing", "unreachable", "slow"))]
)
def test_no_tracker_stops_training(commands, short_run, manner, count_fault):
    process = commands.run(FAULTY, f"wandb-{manner}", *SHORT, "--track", "wandb", "--out", "run")
    assert process.returncode == 0, process.err
    assert "--track wandb: " in process.err and "Traceback" not in process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault(f"W&B {manner}")


@pytest.mark.long
@pytest.mark.parametrize("fault", ["nan-gradients", "nan-images", "inf-loss", "nan-weights"])
def test_what_is_not_finite_is_left_out_and_then_rolled_back(commands, fault, count_fault):
    until = 192 if fault == "nan-weights" else 10**9
    command = [FAULTY, f"{fault}:160:{until}", *SHORT, "--max-skipped", "8", "--on-nan", "rollback"]
    process = commands.run(*command, "--out", "run")
    assert process.returncode == 0, process.err
    run = commands.folder / "run"
    assert "rolling back to 0.1" in process.err
    log = lines(run / "log.jsonl")
    assert log[-1]["rollbacks"] >= 1 and log[-1]["g_lr"] < log[0]["g_lr"] == 0.001
    assert all(w.isfinite().all() for w in weights(run).values())
    count_fault(f"{fault.replace('-', ' ')}: rolled back")
    assert_stopped(commands.run(*command[:-2], "--out", "stopped"), "non-finite", "--on-nan rollback")
    count_fault(f"{fault.replace('-', ' ')}: stopped with the reason")


def test_a_rollback_is_part_of_the_run_that_a_kill_does_not_undo(commands, count_fault, tries):
    command = [FAULTY, "nan-gradients:160", *SHORT, "--max-skipped", "8", "--on-nan", "rollback"]
    whole = commands.run(*command, "--out", "whole")
    assert whole.returncode == 0 and "rolling back to 0.1" in whole.err, whole.err
    log = lines(commands.folder / "whole" / "log.jsonl")
    assert (log[0]["g_lr"], log[-1]["g_lr"], log[-1]["rollbacks"]) == (0.001, 0.0005, 1)
    for number in range(tries(1, 5)):
        run = commands.folder / f"run-{number}"
        process = commands.start(*command, "--out", run)
        for line in process.stderr:
            if "rolling back" in line:
                time.sleep(random.uniform(0, 0.4))
                process.kill()
        process.communicate()
        assert commands.run(*command, "--out", run).returncode == 0
        assert_same_weights(run, commands.folder / "whole")
        count_fault("killed after a rollback")


@pytest.mark.long
def test_a_short_burst_of_nan_is_skipped_and_counted(commands, count_fault):
    process = commands.run(FAULTY, "nan-gradients:160:192", *SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    assert sum(line["skipped"] for line in lines(commands.folder / "run" / "log.jsonl")) == 8
    count_fault("a burst of NaN: skipped and counted")


@pytest.mark.long
def test_a_clock_that_runs_backwards_changes_nothing(commands, short_run, count_fault):
    process = commands.run(FAULTY, "clock", *SHORT, "--track", "tensorboard", "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("clock set back and running backwards")


def damage(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "cut":
        data = data[: rng.randrange(len(data))]
    else:
        members = [i for i in range(64, len(data) // 2)]
        data[rng.choice(members)] ^= 1 << rng.randrange(8)
    path.unlink()  # its other names keep what they have
    path.write_bytes(data)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(commands, short_run, tries, count_fault):
    rng = random.Random(time.time_ns())
    for number in range(tries(1, 10)):
        run = commands.folder / f"run-{number}"
        shutil.copytree(short_run, run)
        path = run / "checkpoints" / "latest.pt"
        while True:
            damage(path, "cut" if number % 2 else "flip", rng)
            try:
                load(path)  # the flipped bit is in the padding between two tensors
            except ValueError:
                break
        process = commands.train(*SHORT, "--out", run)
        assert process.returncode == 0, process.err
        assert "latest.pt is damaged" in process.err and "earlier-" in process.err and "instead" in process.err
        assert_same_weights(run, short_run)
        assert (run / "checkpoints" / "latest.pt.unusable").exists()
        count_fault("latest checkpoint damaged: an earlier one taken, same end")


def draw_folder(folder, count=24):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.mark.long
def test_images_that_come_or_go_are_noticed(commands, count_fault):
    art, run = commands.folder / "art", commands.folder / "run"
    draw_folder(art)
    command = ["art", *SHORT[1:], "--out", "run", "--total-kimg", "30"]
    process = commands.start_training(*command)
    wait_for((run / "checkpoints" / "latest.pt").exists, process)
    (art / "3.png").rename(commands.folder / "3.png")
    before = len(lines(run / "log.jsonl"))
    wait_for(lambda: len(lines(run / "log.jsonl")) > before + 1, process)  # goes on from its cache
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert_stopped(commands.train(*command), "the images in art have changed", code=2)
    count_fault("data folder loses an image")
    shutil.copy(art / "4.png", art / "new.png")
    (commands.folder / "3.png").rename(art / "3.png")
    assert_stopped(commands.train(*command), "the images in art have changed", code=2)
    count_fault("data folder gains an image")
    (art / "new.png").unlink()
    process = commands.start_training(*command)
    before = len(lines(run / "log.jsonl"))
    wait_for(lambda: len(lines(run / "log.jsonl")) > before, process)
    process.kill()
    process.communicate()


@pytest.mark.long
def test_a_full_disk_under_the_cache_is_said_and_nothing_stays(commands, count_fault):
    draw_folder(commands.folder / "art", 400)
    disk = commands.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    commands.environment["PGGAN_CACHE"] = str(disk / "cache")
    try:
        command = ["art", *SHORT[1:], "--resolution", "16", "--out", "run"]
        assert_stopped(commands.train(*command), "the image cache needs", "free", code=2)
        assert not (commands.folder / "run").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        assert commands.train(*command).returncode == 0
        count_fault("disk full during the pyramid cache")
    finally:
        subprocess.run(["umount", disk])


@pytest.mark.long
def test_a_killed_data_worker_is_said_and_the_same_command_goes_on(commands, count_fault):
    draw_folder(commands.folder / "many", 4000)
    process = commands.start("-m", "datasets", "build", "many", "--resolution", "16", "--workers", "2")

    def workers():
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return children.read_text().split() if children.exists() else []

    wait_for(lambda: len(workers()) >= 2, process)
    time.sleep(0.3)
    os.kill(int(workers()[0]), signal.SIGKILL)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "a worker process was killed" in err and "Traceback" not in err
    assert commands.run("-m", "datasets", "build", "many", "--resolution", "16", "--workers", "2").returncode == 0
    count_fault("data worker killed")


@pytest.mark.long
def test_sigint_twice_ends_now_and_what_was_saved_goes_on(commands, finished_run, count_fault):
    rng, run, stopped = random.Random(time.time_ns()), commands.folder / "run", 0
    for _ in range(10):
        process = commands.start_training(*TINY, "--out", "run")
        wait_for((run / "log.jsonl").exists, process)
        time.sleep(rng.uniform(0, 1.5))
        process.send_signal(signal.SIGINT)
        time.sleep(rng.uniform(0, 0.02))
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1]
        assert process.returncode in (0, 1, 130, -signal.SIGINT) and "Traceback" not in err, err
        stopped += process.returncode != 0
        if process.returncode == 0:
            shutil.rmtree(run)
    count_fault("SIGINT twice", stopped)
    assert commands.train(*TINY, "--out", "run").returncode == 0
    assert_same_end(run, finished_run)


def test_ctrl_c_while_starting_says_nothing(commands, tries, count_fault):
    for number in range(tries(2, 30)):
        command = [[ROOT / "train.py"], ["-m", "pggan"], ["-m", "metrics"], ["-m", "datasets"]][number % 4]
        process = commands.start(*command, *([*TINY, "--out", "run"] if number % 4 == 0 else ["--help"]))
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "libtorch" not in maps.read_text():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.7))
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1]
        assert "Traceback" not in err, (command, err)
    count_fault("Ctrl-C during the imports", tries(2, 30))


def test_killed_at_many_random_moments(commands, finished_run, tries, count_fault):
    rng, run, kills = random.Random(time.time_ns()), commands.folder / "run", 0
    for number in range(1000):
        process = commands.start_training(*TINY, "--out", "run")
        stop_at_random_moment(process, run, signal.SIGKILL, rng, from_the_start=number % 4 == 0)
        if process.returncode == 0:  # finished first: begin another one
            assert_same_end(run, finished_run)
            shutil.rmtree(run)
        kills += process.returncode == -signal.SIGKILL
        if kills >= tries(6, 60):
            break
    process = commands.train(*TINY, "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_end(run, finished_run)
    count_fault("SIGKILL at a random moment, end bit-identical", kills)
