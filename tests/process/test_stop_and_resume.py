"""Real training processes, killed and stopped at random moments, end as one that was never stopped."""

import json
import random
import shutil
import signal
import time

import pytest
import torch
from conftest import TINY

TIMES = {
    "images_per_second",
    "loader_share",
    "seconds",
    "peak_memory_mb",
    "stage_seconds",
    "evaluation_seconds",
    "checkpoint_mb",
    "checkpoint_seconds",
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def without_times(path):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines(path)]


def assert_equal_bits(a, b, where="state"):
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal_bits(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), f"{where} differs"
    else:
        assert a == b, f"{where}: {a} and {b}"


def assert_same_end(run, reference):
    for name in ("latest.pt", "stage-0004.pt", "stage-0008.pt", "stage-0016.pt"):
        ours, theirs = (
            torch.load(folder / "checkpoints" / name, weights_only=True)["state"] for folder in (run, reference)
        )
        assert_equal_bits(ours | {"seconds": 0}, theirs | {"seconds": 0}, name)
    for name in ("log.jsonl", "metrics.jsonl"):
        assert without_times(run / name) == without_times(reference / name)
    assert names(run) == names(reference)
    assert len(list((run / "checkpoints").glob("earlier-*.pt"))) == 1


def names(run):
    """Of all files but the checkpoints before the latest, which were saved where the run was stopped."""
    return {p.name for p in run.rglob("*") if not p.name.startswith("earlier-")} - {"stdout"}


def stop_at_random_moment(process, run, how, rng, from_the_start=False):
    """Wait until the process has logged something new (or not even that), and a moment more; then send the signal."""
    if from_the_start:
        time.sleep(rng.uniform(0, 6))
        process.send_signal(how)
    before = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
    while process.poll() is None:
        log = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
        if len(log.splitlines()) > len(before.splitlines()):
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(how)
            break
        time.sleep(0.01)
    return process.communicate(timeout=300)[1]


@pytest.mark.faults
def test_stopped_by_sigterm_and_ctrl_c_saves_and_goes_on(commands, finished_run, tries, count_fault):
    rng = random.Random(time.time_ns())
    run, stopped = commands.folder / "run", 0
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM) * tries(1, 5):
        process = commands.start_training(*TINY, "--out", "run")
        errors = stop_at_random_moment(process, run, how, rng)
        if process.returncode in (130, -how):  # while it wrote its report
            assert without_times(run / "log.jsonl") == without_times(finished_run / "log.jsonl")
        elif process.returncode != 0:  # not at its end already
            stopped += 1
            assert process.returncode == 1 and f"{how.name}: saved" in errors and "Traceback" not in errors
        else:
            assert_same_end(run, finished_run)
            shutil.rmtree(run)
    assert stopped >= 2
    count_fault("SIGTERM or SIGINT: saved, then stopped", stopped)
    process = commands.train(*TINY, "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_end(run, finished_run)


def test_a_finished_run_stays_as_it_is(commands, finished_run):
    before = {p: p.stat().st_mtime_ns for p in (finished_run / "checkpoints").iterdir()}
    numbers = [lines(finished_run / name) for name in ("log.jsonl", "metrics.jsonl")]
    process = commands.train(*TINY, "--out", finished_run)
    assert process.returncode == 0, process.err
    assert numbers == [lines(finished_run / name) for name in ("log.jsonl", "metrics.jsonl")]
    assert before == {p: p.stat().st_mtime_ns for p in (finished_run / "checkpoints").iterdir()}


@pytest.mark.long  # tests/pggan/test_growth.py breaks such a run off everywhere, without processes
@pytest.mark.faults
def test_an_adaptive_run_killed_on_its_way_ends_bit_identical(commands):
    options = [*TINY, "--augment", "ada", "--holdout", "1%", "--ada-kimg", "0.5", "--ada-target", "0.1"]
    whole, run = commands.folder / "whole", commands.folder / "run"
    assert commands.train(*options, "--out", "whole").returncode == 0
    process = commands.start_training(*options, "--out", "run")
    stop_at_random_moment(process, run, signal.SIGKILL, random.Random(time.time_ns()))
    assert commands.train(*options, "--out", "run").returncode == 0
    assert_same_end(run, whole)
    log = lines(run / "log.jsonl")
    assert all(isinstance(line["overfitting"], float) for line in log)
    assert max(line["augment_p"] for line in log) > 0 and all(0 <= line["augment_p"] <= 1 for line in log)
