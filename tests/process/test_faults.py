"""Faults that a run of several days can meet: each is injected into a real process, and no progress is lost."""

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
from conftest import ROOT, TINY, Commands
from PIL import Image
from test_stop_and_resume import assert_same_end, read_lines, read_lines_without_times, stop_at_random_moment

from pggan.checkpoints import load

pytestmark = pytest.mark.faults
LONG = pytest.mark.long
FAULTY = Path(__file__).with_name("faulty.py")
SHORT = [*TINY, "--resolution", "8", "--fade-kimg", "0.1", "--stabilize-kimg", "0.1", "--tick-kimg", "0.03"]


@pytest.fixture(scope="session")
def short_run(tmp_path_factory, cache):
    """Return a run of 300 images that finished without any fault."""
    folder = tmp_path_factory.mktemp("short")
    process = Commands(folder, cache).train(*SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    return folder / "run"


def load_weights(run):
    state = load(run / "checkpoints" / "latest.pt")["state"]
    return {f"{n}.{k}": v for n in ("G", "D", "G_ema") for k, v in state[n].items()}


def assert_same_weights(run, reference):
    ours, theirs = load_weights(run), load_weights(reference)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    for name in ("log.jsonl", "metrics.jsonl"):
        assert read_lines_without_times(run / name) == read_lines_without_times(reference / name)


def assert_stopped(process, *messages, code=1):
    assert process.returncode == code, process.err
    assert "Traceback" not in process.err, process.err
    assert all(text in process.err for text in messages), process.err


def wait_for(condition, process, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.02)


def test_second_process_on_a_run_is_rejected_unless_the_first_is_dead(commands, finished_run, count_fault):
    run = commands.folder / "run"
    first = commands.start_training(*TINY, "--out", "run")
    wait_for((run / "log.jsonl").exists, first)
    first.send_signal(signal.SIGSTOP)  # alive, whatever it was doing
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


def test_temporarily_full_disk_loses_only_sample_grids(commands, short_run, count_fault):
    process = commands.run(FAULTY, "full:32:96", *SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    assert "cannot write a line of log.jsonl" in process.err and "saved the checkpoint: writing works" in process.err
    assert "fakes-" in process.err and "Traceback" not in process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("disk full during log line, sample and checkpoint, then room again")


@pytest.mark.parametrize("since", [64, pytest.param(0, marks=LONG), pytest.param(200, marks=LONG)])
def test_run_stops_on_a_full_disk_and_resumes_once_there_is_space(commands, short_run, since, count_fault):
    process = commands.run(FAULTY, f"full:{since}", *SHORT, "--out", "run")
    assert_stopped(process, "cannot write run/checkpoints/latest.pt", "the same command")
    assert not list((commands.folder / "run").rglob(".*.writing"))
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("disk full to the end of a stage or run")


@pytest.mark.long
def test_run_resumes_after_a_too_small_disk_is_enlarged(commands, short_run, count_fault):
    disk = commands.folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs permission to mount")
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
def test_run_stops_when_its_directory_is_moved_away(commands, track, count_fault):
    process = commands.run(FAULTY, "gone:100", *SHORT, "--track", track, "--out", "run")
    assert process.returncode == 1 and "run was deleted" in process.err, process.err
    assert track != "none" or "Traceback" not in process.err  # TensorBoard's own thread prints one
    run = commands.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    os.rename(commands.folder / "run-moved", run)
    assert commands.train(*SHORT, "--out", "run").returncode == 0
    count_fault("run directory moved away and back")


@pytest.mark.parametrize(
    "failure", ["hanging", *(pytest.param(name, marks=LONG) for name in ("failing", "unreachable", "slow"))]
)
def test_failing_tracker_does_not_stop_training(commands, short_run, failure, count_fault):
    process = commands.run(FAULTY, f"wandb-{failure}", *SHORT, "--track", "wandb", "--out", "run")
    assert process.returncode == 0, process.err
    assert "--track wandb: " in process.err and "Traceback" not in process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault(f"W&B {failure}")


@pytest.mark.long
@pytest.mark.parametrize("fault", ["nan-gradients", "nan-images", "inf-loss", "nan-weights"])
def test_non_finite_steps_are_skipped_and_then_rolled_back(commands, fault, count_fault):
    until = 192 if fault == "nan-weights" else 10**9
    command = [FAULTY, f"{fault}:160:{until}", *SHORT, "--max-skipped", "8", "--on-nan", "rollback"]
    process = commands.run(*command, "--out", "run")
    assert process.returncode == 0, process.err
    run = commands.folder / "run"
    assert "rolling back to 0.1" in process.err
    log = read_lines(run / "log.jsonl")
    assert log[-1]["rollbacks"] >= 1 and log[-1]["g_lr"] < log[0]["g_lr"] == 0.001
    assert all(w.isfinite().all() for w in load_weights(run).values())
    count_fault(f"{fault.replace('-', ' ')}: rolled back")
    assert_stopped(commands.run(*command[:-2], "--out", "stopped"), "non-finite", "--on-nan rollback")
    count_fault(f"{fault.replace('-', ' ')}: stopped with the reason")


def test_run_killed_after_a_rollback_resumes_to_the_same_weights(commands, count_fault, tries):
    command = [FAULTY, "nan-gradients:160", *SHORT, "--max-skipped", "8", "--on-nan", "rollback"]
    whole = commands.run(*command, "--out", "whole")
    assert whole.returncode == 0 and "rolling back to 0.1" in whole.err, whole.err
    log = read_lines(commands.folder / "whole" / "log.jsonl")
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
def test_short_burst_of_nan_gradients_is_skipped_and_counted(commands, count_fault):
    process = commands.run(FAULTY, "nan-gradients:160:192", *SHORT, "--out", "run")
    assert process.returncode == 0, process.err
    assert sum(line["skipped"] for line in read_lines(commands.folder / "run" / "log.jsonl")) == 8
    count_fault("a burst of NaN: skipped and counted")


@pytest.mark.long
def test_clock_running_backwards_does_not_affect_training(commands, short_run, count_fault):
    process = commands.run(FAULTY, "clock", *SHORT, "--track", "tensorboard", "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_weights(commands.folder / "run", short_run)
    count_fault("clock set back and running backwards")


def damage(path, method, rng):
    data = bytearray(path.read_bytes())
    if method == "cut":
        data = data[: rng.randrange(len(data))]
    else:
        members = [i for i in range(64, len(data) // 2)]
        data[rng.choice(members)] ^= 1 << rng.randrange(8)
    path.unlink()  # other hard links to the file keep the intact content
    path.write_bytes(data)


def test_damaged_checkpoint_is_set_aside_and_the_previous_one_used(commands, short_run, tries, count_fault):
    rng = random.Random(time.time_ns())
    for number in range(tries(1, 10)):
        run = commands.folder / f"run-{number}"
        shutil.copytree(short_run, run)
        path = run / "checkpoints" / "latest.pt"
        while True:
            damage(path, "cut" if number % 2 else "flip", rng)
            try:
                load(path)  # succeeds if the flipped bit is in the padding between two tensors
            except ValueError:
                break
        process = commands.train(*SHORT, "--out", run)
        assert process.returncode == 0, process.err
        assert "latest.pt is damaged" in process.err and "earlier-" in process.err and "instead" in process.err
        assert_same_weights(run, short_run)
        assert (run / "checkpoints" / "latest.pt.unusable").exists()
        count_fault("latest checkpoint damaged: an earlier one used, same end")


def write_images(folder, count=24):
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.mark.long
def test_added_or_removed_images_are_detected_on_resume(commands, count_fault):
    art, run = commands.folder / "art", commands.folder / "run"
    write_images(art)
    command = ["art", *SHORT[1:], "--out", "run", "--total-kimg", "30"]
    process = commands.start_training(*command)
    wait_for((run / "checkpoints" / "latest.pt").exists, process)
    (art / "3.png").rename(commands.folder / "3.png")
    before = len(read_lines(run / "log.jsonl"))
    wait_for(lambda: len(read_lines(run / "log.jsonl")) > before + 1, process)  # training continues from its cache
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
    before = len(read_lines(run / "log.jsonl"))
    wait_for(lambda: len(read_lines(run / "log.jsonl")) > before, process)
    process.kill()
    process.communicate()


@pytest.mark.long
def test_full_disk_during_the_cache_build_is_reported_and_leaves_no_run(commands, count_fault):
    write_images(commands.folder / "art", 400)
    disk = commands.folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs permission to mount")
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
def test_killed_data_worker_is_reported_and_the_same_command_succeeds(commands, count_fault):
    write_images(commands.folder / "many", 4000)
    process = commands.start("-m", "datasets", "build", "many", "--resolution", "16", "--workers", "2")

    def list_workers():
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return children.read_text().split() if children.exists() else []

    wait_for(lambda: len(list_workers()) >= 2, process)
    time.sleep(0.3)
    os.kill(int(list_workers()[0]), signal.SIGKILL)
    err = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "a worker process was killed" in err and "Traceback" not in err
    assert commands.run("-m", "datasets", "build", "many", "--resolution", "16", "--workers", "2").returncode == 0
    count_fault("data worker killed")


@pytest.mark.long
def test_second_sigint_exits_immediately_and_the_run_resumes(commands, finished_run, count_fault):
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


def test_ctrl_c_during_startup_prints_no_traceback(new_commands, tries, count_fault):
    for number in range(tries(2, 30)):
        command = [[ROOT / "train.py"], ["-m", "pggan"], ["-m", "metrics"], ["-m", "datasets"]][number % 4]
        process = new_commands.start(*command, *([*TINY, "--out", "run"] if number % 4 == 0 else ["--help"]))
        maps = Path(f"/proc/{process.pid}/maps")
        while process.poll() is None and "libtorch" not in maps.read_text():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.7))
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1]
        assert "Traceback" not in err, (command, err)
    count_fault("Ctrl-C during the imports", tries(2, 30))


def test_run_killed_at_many_random_moments_ends_bit_identical(commands, finished_run, tries, count_fault):
    rng, run, kills = random.Random(time.time_ns()), commands.folder / "run", 0
    for number in range(1000):
        process = commands.start_training(*TINY, "--out", "run")
        stop_at_random_moment(process, run, signal.SIGKILL, rng, during_startup=number % 4 == 0)
        if process.returncode == 0:  # finished before the signal: start another run
            assert_same_end(run, finished_run)
            shutil.rmtree(run)
        kills += process.returncode == -signal.SIGKILL
        if kills >= tries(6, 60):
            break
    process = commands.train(*TINY, "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_end(run, finished_run)
    count_fault("SIGKILL at a random moment, end bit-identical", kills)
