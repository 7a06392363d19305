import numpy as np
import pytest

from pggan.datasets import shuffled_indices


@pytest.mark.parametrize("size", [1, 7, 100])
def test_each_epoch_is_a_different_permutation(size):
    epochs = shuffled_indices(3, 0, 5 * size, size).reshape(5, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    assert size < 7 or len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize(("start", "count"), [(0, 10), (5, 10), (9, 1), (10, 10), (8, 25), (39, 1)])
def test_any_range_equals_the_same_part_of_a_longer_range(start, count):
    assert (shuffled_indices(0, start, count, 10) == shuffled_indices(0, 0, 40, 10)[start : start + count]).all()


def test_late_indices_do_not_need_earlier_ones():
    far = 10**12
    assert (shuffled_indices(0, far - 3, 6, 10)[3:] == shuffled_indices(0, far, 3, 10)).all()


def test_different_seeds_give_different_orders():
    orders = [tuple(shuffled_indices(seed, 0, 50, 50)) for seed in (0, 1, 2**32 - 1)]
    assert len(set(orders)) == 3
