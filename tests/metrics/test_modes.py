import numpy as np
import pytest
import torch

from pggan.metrics import ModeCoverage

COVERAGE = ModeCoverage(lambda images: images[:, 0, 0, 0].astype(int), modes=8, smallest=8)


def count_modes(*modes, side=8):
    counts = COVERAGE.accumulator_type()
    for batch in modes:
        counts.update(torch.tensor(batch, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, side, side))
    return counts


def test_the_data_covers_its_own_modes_evenly():
    data = count_modes(range(8), range(4))
    assert COVERAGE.compare(data, data) == {"modes": 8, "modes_kl": 0}


def test_collapsed_samples_cover_one_mode():
    assert COVERAGE.compare(count_modes(range(8)), count_modes([3] * 50)) == pytest.approx(
        {"modes": 1, "modes_kl": np.log(8)}
    )


def test_balance_is_measured_relative_to_data_that_need_not_be_uniform():
    data = count_modes([0] * 70 + list(range(1, 8)) * 10)
    uniform = count_modes(list(range(8)) * 10)
    expected = np.log(1 / 8 / 0.5) / 8 + 7 / 8 * np.log(1 / 8 / (0.5 / 7))
    assert COVERAGE.compare(data, uniform) == pytest.approx({"modes": 8, "modes_kl": expected})


def test_a_mode_below_a_tenth_of_the_datas_share_is_not_covered():
    rare = count_modes([0] + list(range(1, 8)) * 20)
    assert COVERAGE.compare(count_modes(range(8)), rare)["modes"] == 7


def test_a_mode_missing_from_the_data_counts_as_half_an_image():
    result = COVERAGE.compare(count_modes(range(7)), count_modes([7] * 10))
    assert result == pytest.approx({"modes": 1, "modes_kl": np.log(7.5 / 0.5)})


def test_images_too_small_to_classify_give_no_score():
    assert COVERAGE.compare(count_modes(range(8), side=4), count_modes(range(8), side=4)) == {}
