"""Training processes that are killed or stopped at random moments and resumed end bit-identical to one that was not."""

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


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read_lines_without_times(path):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_lines(path)]


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
        assert_equal_bits(ours | {"seconds": 0, "elapsed": 0}, theirs | {"seconds": 0, "elapsed": 0}, name)
    for name in ("log.jsonl", "metrics.jsonl"):
        assert read_lines_without_times(run / name) == read_lines_without_times(reference / name)
    assert list_files(run) == list_files(reference)
    assert len(list((run / "checkpoints").glob("earlier-*.pt"))) == 1


def list_files(run):
    """Return the names of all files except the earlier checkpoints, which depend on when the run was stopped."""
    return {p.name for p in run.rglob("*") if not p.name.startswith("earlier-")} - {"stdout"}


def stop_at_random_moment(process, run, signum, rng, during_startup=False):
    """Send the signal at a random moment after the process has logged a new line (or already during its startup)."""
    if during_startup:
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signum)
    before = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
    while process.poll() is None:
        log = (run / "log.jsonl").read_text() if (run / "log.jsonl").exists() else ""
        if len(log.splitlines()) > len(before.splitlines()):
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signum)
            break
        time.sleep(0.01)
    return process.communicate(timeout=300)[1]


@pytest.mark.faults
def test_run_stopped_by_sigterm_or_ctrl_c_saves_and_resumes(commands, finished_run, tries, count_fault):
    rng = random.Random(time.time_ns())
    run, stopped = commands.folder / "run", 0
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM) * tries(1, 5):
        process = commands.start_training(*TINY, "--out", "run")
        errors = stop_at_random_moment(process, run, signum, rng)
        if process.returncode in (130, -signum):  # interrupted while writing the report
            assert read_lines_without_times(run / "log.jsonl") == read_lines_without_times(finished_run / "log.jsonl")
        elif process.returncode != 0:  # stopped before the end
            stopped += 1
            assert process.returncode == 1 and f"{signum.name}: saved" in errors and "Traceback" not in errors
        else:
            assert_same_end(run, finished_run)
            shutil.rmtree(run)
    assert stopped >= 2
    count_fault("SIGTERM or SIGINT: saved, then stopped", stopped)
    process = commands.train(*TINY, "--out", "run")
    assert process.returncode == 0, process.err
    assert_same_end(run, finished_run)


def test_finished_run_is_left_unchanged(commands, finished_run):
    before = {p: p.stat().st_mtime_ns for p in (finished_run / "checkpoints").iterdir()}
    numbers = [read_lines(finished_run / name) for name in ("log.jsonl", "metrics.jsonl")]
    process = commands.train(*TINY, "--out", finished_run)
    assert process.returncode == 0, process.err
    assert numbers == [read_lines(finished_run / name) for name in ("log.jsonl", "metrics.jsonl")]
    assert before == {p: p.stat().st_mtime_ns for p in (finished_run / "checkpoints").iterdir()}


@pytest.mark.long  # tests/pggan/test_growth.py interrupts such a run at every point, within one process
@pytest.mark.faults
def test_killed_run_with_adaptive_augmentation_ends_bit_identical(commands):
    options = [*TINY, "--augment", "ada", "--holdout", "1%", "--ada-kimg", "0.5", "--ada-target", "0.1"]
    whole, run = commands.folder / "whole", commands.folder / "run"
    assert commands.train(*options, "--out", "whole").returncode == 0
    process = commands.start_training(*options, "--out", "run")
    stop_at_random_moment(process, run, signal.SIGKILL, random.Random(time.time_ns()))
    assert commands.train(*options, "--out", "run").returncode == 0
    assert_same_end(run, whole)
    log = read_lines(run / "log.jsonl")
    assert all(isinstance(line["overfitting"], float) for line in log)
    assert max(line["augment_p"] for line in log) > 0 and all(0 <= line["augment_p"] <= 1 for line in log)
