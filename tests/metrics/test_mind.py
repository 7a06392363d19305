import math

import pytest
import torch

from pggan.metrics import MetricError, mind
from pggan.metrics.features import Features
from pggan.metrics.mind import MIND, monge_inception_distance


def draw(count, dimensions=16, seed=0):
    return torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))


def test_identical_features_in_another_order_are_at_distance_0():
    x = draw(50)
    assert monge_inception_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-9)


def test_a_shift_costs_three_times_its_squared_length():
    """For unit vectors u, the mean of (u.s)^2 is |s|^2 / D, and a shift moves every sorted value by u.s."""
    x, shift = draw(40), torch.zeros(16)
    shift[3] = 2.0
    # 1,000 directions: the relative standard error of the mean of (u.s)^2 is sqrt(2 / 1000)
    assert monge_inception_distance(x, x + shift) == pytest.approx(3 * 4, rel=4 * math.sqrt(2 / 1000))


def test_the_result_is_the_definitions_in_one_dimension():
    x, y = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[4.0], [0.0], [2.0]])
    assert monge_inception_distance(x, y) == pytest.approx(3 * (0 + 1 + 1) / 3)


def test_the_larger_side_is_reduced_to_the_smaller_ones_size():
    x, y = draw(30, seed=1), draw(90, seed=2)
    assert monge_inception_distance(x, y) == pytest.approx(monge_inception_distance(y, x))


def test_results_do_not_depend_on_the_directions_at_once(monkeypatch):
    whole = monge_inception_distance(draw(20), draw(20, seed=1))
    monkeypatch.setattr(mind, "DIRECTIONS_AT_ONCE", 7)
    assert monge_inception_distance(draw(20), draw(20, seed=1)) == pytest.approx(whole, rel=1e-6)


def test_the_metric_compares_accumulated_features():
    real, fake = Features(), Features()
    for part in draw(20).split(8):
        real.update(part)
    fake.update(draw(20, seed=1))
    assert MIND().compare(real, fake) == {"mind": monge_inception_distance(draw(20), draw(20, seed=1))}
    with pytest.raises(MetricError, match="MIND needs at least 2 real and 2 generated images, not 1 and 9"):
        MIND().check(1, 9)


# from torch-fidelity's function at commit 5e211a9 (its release 0.4.0 does not have it yet), for the same features
@pytest.mark.parametrize(("counts", "expected"), [((40, 40), 54.0920620), ((30, 90), 67.7439423)])
def test_the_result_matches_torch_fidelity(counts, expected):
    x, y = draw(counts[0], 64, seed=3), 1.2 * draw(counts[1], 64, seed=4) + 0.3
    assert monge_inception_distance(x, y) == pytest.approx(expected, rel=1e-5)
