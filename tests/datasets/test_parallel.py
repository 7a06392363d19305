import errno
import os
import signal
import sys
from pathlib import Path

import pytest

from pggan.datasets import DataError, parallel
from pggan.datasets.parallel import count_cores, map_parallel, read_cpu_quota


def square(x):
    return x * x, os.getpid()


def fail(x):
    raise OSError(28, f"no room for {x}")


def kill_worker(x):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_is_processed_once(workers):
    results = list(map_parallel(square, range(100), workers))
    assert sorted(value for value, _ in results) == [x * x for x in range(100)]
    assert (os.getpid() in {process for _, process in results}) == (workers < 2)


def test_exceptions_in_workers_are_raised_in_the_caller():
    with pytest.raises(OSError, match="no room") as error:
        list(map_parallel(fail, range(100), 2))
    assert error.value.errno == 28


def test_a_killed_worker_is_reported():
    with pytest.raises(DataError, match=r"a worker process was killed, .* free some memory"):
        list(map_parallel(kill_worker, range(9), 2))


def test_only_a_few_items_are_started_ahead():
    started = []
    results = map_parallel(square, (started.append(i) or i for i in range(1000)), 2)
    next(results)
    results.close()
    assert len(started) < 50


def fail_above(limit, error, monkeypatch):
    """Make pools of more than `limit` workers fail to start."""
    pool = parallel.ProcessPoolExecutor

    def start(workers, *arguments, **options):
        if workers > limit:
            raise error
        return pool(workers, *arguments, **options)

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", start)


@pytest.mark.parametrize("error", [ImportError("no semaphores"), RuntimeError("no thread"), OSError(11, "no process")])
def test_the_main_process_does_the_work_if_no_other_can_start(monkeypatch, capsys, error):
    fail_above(0, error, monkeypatch)
    results = dict(map_parallel(square, range(20), 8))
    assert sorted(results) == [x * x for x in range(20)] and set(results.values()) == {os.getpid()}
    err = capsys.readouterr().err
    assert err.startswith("warning: decoding in one process: ") and err.count("\n") == 1 and str(error.args[-1]) in err


def test_fewer_processes_do_the_work_if_not_all_can_start(monkeypatch, capsys):
    fail_above(3, OSError(errno.EAGAIN, "no process"), monkeypatch)
    results = dict(map_parallel(square, range(200), 8))
    assert len(results) == 200 and os.getpid() not in results.values()
    assert capsys.readouterr().err.startswith("warning: decoding in 2 processes instead of 8: ")


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
)
def test_the_cpu_quota_of_a_container_limits_the_cores(tmp_path, files, quota):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_cpu_quota(tmp_path) == quota
    assert count_cores(tmp_path) == max(min(count_cores(), -int(-quota // 1)), 1)
    (tmp_path / "membership").write_text("4:cpu,cpuacct:/job/step\n0::/job/step\n")
    assert read_cpu_quota(tmp_path, tmp_path / "membership") == quota  # of a group that contains the process's
    for name in files:
        inner = tmp_path / Path(name).parent / "job" / Path(name).name
        inner.parent.mkdir(exist_ok=True)
        inner.write_text(files[name])
        (tmp_path / name).unlink()
    assert read_cpu_quota(tmp_path, tmp_path / "membership") == quota
