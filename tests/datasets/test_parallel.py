import os
import signal

import pytest

from datasets import DataError
from datasets.parallel import in_parallel


def square(x):
    return x * x, os.getpid()


def fail(x):
    raise OSError(28, f"no room for {x}")


def vanish(x):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_item_is_worked_on_once(workers):
    results = list(in_parallel(square, range(100), workers))
    assert sorted(value for value, _ in results) == [x * x for x in range(100)]
    assert (os.getpid() in {process for _, process in results}) == (workers < 2)


def test_what_a_worker_raises_is_raised_here():
    with pytest.raises(OSError, match="no room") as raised:
        list(in_parallel(fail, range(100), 2))
    assert raised.value.errno == 28


def test_a_killed_worker_is_said():
    with pytest.raises(DataError, match="a worker was killed"):
        list(in_parallel(vanish, range(9), 2))


def test_no_more_is_started_than_is_wanted():
    started = []
    results = in_parallel(square, (started.append(i) or i for i in range(1000)), 2)
    next(results)
    results.close()
    assert len(started) < 50
