"""Several processes train like one, stop together, and leave a run that any number of processes can resume."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, Commands
from test_stop_and_resume import assert_equal_bits

OPTIONS = """
    synthetic --resolution 8 --fmap-base 64 --fmap-max 8 --batch-size 16 --fade-kimg 0.2 --stabilize-kimg 0.2
    --tick-kimg 0.1 --metrics swd --metric-images 100 --metric-every-kimg 0.2 --track none --device cpu
    --precision fp32 --optimizer sgd --lr 0.01 --labels --mirror --augment ada --ada-kimg 0.5 --holdout 5%
""".split()


FAULTY = Path(__file__).with_name("faulty.py")
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


class Processes:
    """Training processes, started as a launcher would start them.

    fault: the fault that faulty.py injects into the last process.
    """

    def __init__(self, commands, count, *arguments, fault=None, script=ROOT / "train.py"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.all = []
        for rank in range(count):
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            variables = {name: str(value) for name, value in variables.items()}
            start = [FAULTY, fault] if fault and rank == count - 1 else [script]
            self.all.append(commands.start(*start, *arguments, MASTER_ADDR="127.0.0.1", **variables))

    def wait(self):
        """Return the exit codes; keep the first process' output as `out` and `err` and the others' as `others`."""
        try:
            texts = [process.communicate(timeout=600) for process in self.all]
        finally:
            for process in self.all:
                process.kill()
        (self.out, self.err), *others = texts
        self.others = [part for text in others for part in text]
        return [process.returncode for process in self.all]

    def wait_for_log_lines(self, run, lines=2):
        wait_for_log_lines(self.all[0], run, lines)


def wait_for_log_lines(process, run, lines):
    """Wait until the run has logged this many lines."""
    log, end = run / "log.jsonl", time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) >= lines):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def runs_by_count(tmp_path_factory, cache):
    """Return finished runs by number of processes: 1, 2 (started by torchrun, with --micro-batch) and 4."""
    commands = Commands(tmp_path_factory.mktemp("ranks"), cache)
    alone = commands.train(*OPTIONS, "--out", "1")
    assert alone.returncode == 0, alone.err
    two = commands.run(*TORCHRUN, ROOT / "train.py", *OPTIONS, "--micro-batch", "4", "--out", "2")
    assert two.returncode == 0, two.err
    four = Processes(commands, 4, *OPTIONS, "--out", "4")
    assert four.wait() == [0] * 4, four.err
    assert four.others == [""] * 6
    return {count: commands.folder / str(count) for count in (1, 2, 4)}


def load_state(run):
    return torch.load(run / "checkpoints" / "latest.pt", weights_only=True)["state"]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_equal_up_to_rounding(run, reference):
    """Assert that the runs are equal up to the order of summation."""
    ours, theirs = load_state(run), load_state(reference)
    assert ours["images"] == theirs["images"] and ours["augment_p"] == theirs["augment_p"]
    for name in ("G", "D", "G_ema"):
        for key, value in theirs[name].items():
            assert torch.allclose(ours[name][key], value, rtol=0, atol=2e-6), (name, key)
    for name in ("log.jsonl", "metrics.jsonl"):
        for a, b in zip(read_lines(run / name), read_lines(reference / name), strict=True):
            for key in {"images", "alpha", "d_loss", "g_loss", "real_score", "augment_p", "modes"} & b.keys():
                assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), (name, key)
            assert a.get("swd", 0) == pytest.approx(b.get("swd", 0), rel=0.01)  # rounding may change a pixel's value
    assert {p.name for p in run.rglob("*")} == {p.name for p in reference.rglob("*")}


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_trains_the_same_through_a_fade(runs_by_count, count):
    assert_equal_up_to_rounding(runs_by_count[count], runs_by_count[1])
    start = torch.load(runs_by_count[1] / "checkpoints" / "stage-0004.pt", weights_only=True)["state"]["G"]
    changes = [float((value - start[key]).abs().max()) for key, value in load_state(runs_by_count[1])["G"].items()]
    assert max(changes) > 1e-3  # much more than the tolerance above


def test_dead_process_stops_the_run_and_a_single_process_finishes_it(commands, runs_by_count):
    processes = Processes(commands, 2, *OPTIONS, "--out", "run")
    processes.wait_for_log_lines(commands.folder / "run")
    processes.all[1].kill()
    start = time.monotonic()
    assert processes.wait() == [1, -signal.SIGKILL], processes.err
    assert time.monotonic() - start < 60
    assert "another process of this run has exited" in processes.err and "Traceback" not in processes.err
    assert "run the same command again to resume from run/checkpoints/latest.pt" in processes.err
    process = commands.train(*OPTIONS, "--out", "run")
    assert process.returncode == 0, process.err
    assert_equal_up_to_rounding(commands.folder / "run", runs_by_count[1])


def test_signal_to_one_process_stops_all_and_resuming_is_bit_identical(commands, runs_by_count):
    options = [*OPTIONS, "--micro-batch", "4", "--out", "run"]
    processes = Processes(commands, 2, *options)
    processes.wait_for_log_lines(commands.folder / "run", lines=3)
    processes.all[1].send_signal(signal.SIGTERM)
    assert processes.wait() == [1, 1], processes.err
    assert "SIGTERM: saved run/checkpoints/latest.pt" in processes.err and processes.others == ["", ""]
    interrupt_torchrun(commands, options)
    processes = Processes(commands, 2, *options)
    assert processes.wait() == [0, 0], processes.err
    whole, resumed = (
        load_state(run) | {"seconds": 0, "elapsed": 0} for run in (runs_by_count[2], commands.folder / "run")
    )
    assert_equal_bits(resumed, whole)


def interrupt_torchrun(commands, options):
    """Resume the run for a line or two, then signal the whole process group, as a terminal does on Ctrl-C."""
    command = [sys.executable, *TORCHRUN, "--redirects", "3", "--log-dir", "logs", ROOT / "train.py", *options]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    torchrun = subprocess.Popen(
        command, cwd=commands.folder, env=commands.environment, start_new_session=True, **output
    )
    run = commands.folder / "run"
    wait_for_log_lines(torchrun, run, lines=len(read_lines(run / "log.jsonl")) + 1)
    os.killpg(torchrun.pid, signal.SIGINT)
    torchrun.wait(timeout=300)
    errors = [next(commands.folder.glob(f"logs/*/attempt_0/{rank}/stderr.log")).read_text() for rank in (0, 1)]
    assert errors[0].count("SIGINT: saved run/checkpoints/latest.pt; run the same command again to resume") == 1, (
        errors[0]
    )
    assert "Traceback" not in errors[0] and errors[1] == ""


def test_non_finite_weights_in_one_process_roll_back_all_processes(commands):
    short = ["--fade-kimg", "0.1", "--stabilize-kimg", "0.1", "--metrics", "none"]
    options = [*OPTIONS, *short, "--max-skipped", "4", "--on-nan", "rollback", "--out", "run"]
    processes = Processes(commands, 2, *options, fault="nan-weights:128")
    assert processes.wait() == [0, 0], processes.err
    assert processes.err.count("rolling back to 0.128 kimg, with learning rates multiplied by 0.5") == 1
    assert processes.others == ["", ""]
    run = commands.folder / "run"
    assert all(value.isfinite().all() for name in ("G", "D", "G_ema") for value in load_state(run)[name].values())
    rates = {line["images"]: line["g_lr"] for line in read_lines(run / "log.jsonl")}
    assert rates == {128: 0.01, 256: 0.005, 320: 0.005}


def test_invalid_option_is_reported_once(commands):
    processes = Processes(commands, 2, *OPTIONS, "--batch-size", "10", "--out", "run")
    codes = processes.wait()
    assert codes[0] == 2 and codes[1] != 0, processes.err
    assert processes.err == "train.py: --batch-size: 10 is not a multiple of --mbstd-group 4\n"
    assert list(commands.folder.iterdir()) == []


HANGING = """
import os, time
from pggan.training import ranks

ranks.LOST_GRACE = 0.1
with ranks.connect_ranks() as mine:
    mine.all_reduce_max(0)
    if mine.rank == NUMBER:
        os._exit(3)
    time.sleep(600)  # like waiting for a GPU that waits for the lost rank: no exception ends it
"""


@pytest.mark.parametrize("lost", [0, 2])
def test_a_process_that_waits_for_a_lost_one_exits(commands, lost):
    (commands.folder / "hanging.py").write_text(HANGING.replace("NUMBER", str(lost)))
    processes = Processes(commands, 3, script=commands.folder / "hanging.py")
    start = time.monotonic()
    assert processes.wait() == [3 if rank == lost else 1 for rank in range(3)], processes.others
    assert time.monotonic() - start < 60
    for text in [processes.err, *processes.others[1::2]][(lost == 0) : 3 - (lost == 2)]:
        assert text.endswith("has exited or cannot be reached; run the same command again to resume\n")
