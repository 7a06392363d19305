"""Warning signs: each is found in a run that has it, and none in a healthy run."""

import numpy as np
import pytest
import torch

from pggan.datasets import open_source
from pggan.training.health import MIN_TICKS, SIGNS, describe_sign, find_signs, measure_variety


def make_log_lines(count=12, **fields):
    """Return a healthy run's log lines; `fields` replace values by a constant or by a function of the tick."""
    rng = np.random.default_rng(0)
    run = []
    for i in range(count):
        line = {
            "images": 1000 * (i + 1),
            "resolution": 16,
            "alpha": 1.0,
            "skipped": 0,
            "real_score": 1 + rng.normal() / 9,
            "fake_score": -1 + rng.normal() / 9,
            "g_gradient": 2 + rng.random(),
            "d_gradient": 3 + rng.random(),
            "variety": 0.8 + rng.random() / 9,
            "modes_shown": 24,
            "modes_shown_real": 28,
            "overfitting": 0.1,
        }
        run.append(line | {name: value(i) if callable(value) else value for name, value in fields.items()})
    return run


def test_a_healthy_run_shows_no_signs():
    assert all(find_signs(make_log_lines()[: i + 1]) == [] for i in range(12))


@pytest.mark.parametrize(
    "name, fields",
    [
        ("collapse", {"variety": 0.1}),
        ("collapse", {"modes_shown": 5}),
        ("overfitting", {"overfitting": 0.9}),
        ("vanishing", {"g_gradient": lambda i: 2.0 if i < 11 else 0.001}),
        ("exploding", {"d_gradient": lambda i: 2.0 if i < 11 else 500.0}),
        ("exploding", {"skipped": lambda i: int(i == 11)}),
        ("oscillation", {"fake_score": lambda i: 9.0 * (-1) ** i, "real_score": lambda i: 9.0 * (-1) ** i + 1}),
    ],
)
def test_each_sign_is_found_in_its_symptoms(name, fields):
    assert find_signs(make_log_lines(**fields)) == [name]


def test_one_bad_tick_is_not_collapse_and_other_stages_do_not_count():
    assert find_signs(make_log_lines(variety=lambda i: 0.1 if i == 11 else 0.9)) == []
    later = make_log_lines(count=MIN_TICKS - 1, variety=0.1)
    assert find_signs([*make_log_lines(variety=0.1), *({**line, "resolution": 32} for line in later)]) == []


def test_an_early_generator_with_varied_images_and_a_third_of_the_modes_has_not_collapsed():
    assert find_signs(make_log_lines(modes_shown=10)) == []


def test_drifting_scores_are_not_oscillation():
    assert find_signs(make_log_lines(fake_score=lambda i: 9.0 * i, real_score=lambda i: 9.0 * i + 1)) == []


def test_log_lines_with_missing_fields_show_no_signs():
    bare = [{"images": i, "resolution": 16, "alpha": 1.0, "g_gradient": None} for i in range(20)]
    assert find_signs(bare) == []


def test_variety_is_low_for_similar_images_and_near_one_for_real_ones():
    source = open_source("synthetic")
    images = torch.from_numpy(np.stack([source.image(i, 16) for i in range(128)]))
    varied = measure_variety(images[:64], images[64:], modes=True)
    assert 0.8 < varied["variety"] < 1.25 and varied["modes_shown"] > 0.8 * varied["modes_shown_real"]
    noise = torch.randint(0, 3, (64, 3, 16, 16), dtype=torch.uint8)
    similar = measure_variety(images[:1] + noise, images[64:], modes=True)
    assert (
        similar["variety"] < 0.1
        and similar["likeness"] > 0.9 > similar["likeness_real"]
        and similar["modes_shown"] <= 2
    )
    assert measure_variety(images[:2], images[:2], modes=False) == {}


@pytest.mark.parametrize("side", [4, 8, 256])
def test_variety_is_measured_at_every_resolution(side):
    reals, fakes = (torch.randint(0, 256, (8, 1, side, side), dtype=torch.uint8) for _ in range(2))
    found = measure_variety(fakes, reals, modes=False)
    assert found["variety"] == pytest.approx(1, abs=0.2) and found.keys() == {"variety", "likeness", "likeness_real"}


@pytest.mark.parametrize("name", SIGNS)
def test_every_sign_is_described_in_one_line_with_advice(name):
    assert "try" in describe_sign(name) and "\n" not in describe_sign(name)
