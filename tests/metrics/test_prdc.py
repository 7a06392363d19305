import numpy as np
import pytest
import torch

from pggan.metrics import prdc
from pggan.metrics.prdc import precision_recall_density_coverage


def compute_by_definition(real, fake):
    """Return the metrics by their definitions in float64, with all distances in memory."""

    def distance(a, b):
        return np.linalg.norm(a[:, None] - b[None], axis=2)

    def radius(x, k):
        return np.sort(distance(x, x), axis=1)[:, k]

    d = distance(fake, real)
    return {
        "precision": (d <= radius(real, 3)).any(axis=1).mean(),
        "recall": (radius(fake, 3) >= d.T).any(axis=1).mean(),
        "density": (d <= radius(real, 5)).sum() / (5 * len(fake)),
        "coverage": (d.min(axis=0) <= radius(real, 5)).mean(),
    }


@pytest.mark.parametrize(("n", "m", "shift"), [(60, 60, 0), (80, 50, 1.0), (40, 90, 2.0)])
@pytest.mark.parametrize("max_distances", [1 << 25, 100])
def test_metrics_agree_with_their_definitions_for_any_slice_size(monkeypatch, n, m, shift, max_distances):
    monkeypatch.setattr(prdc, "MAX_DISTANCES", max_distances)
    rng = np.random.default_rng(n)
    real, fake = rng.normal(0, 1, (n, 5)), rng.normal(shift, 1, (m, 5))
    ours = precision_recall_density_coverage(torch.from_numpy(real).float(), torch.from_numpy(fake).float())
    assert ours == pytest.approx(compute_by_definition(real, fake))


def test_identical_samples_score_one_and_distant_ones_zero():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    same = precision_recall_density_coverage(x, x)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert set(precision_recall_density_coverage(x, x + 100).values()) == {0}


def test_a_collapsed_generator_is_precise_but_recalls_and_covers_little():
    g = torch.Generator().manual_seed(1)
    real = torch.randn(200, 4, generator=g)
    fake = real[:1] + 0.01 * torch.randn(200, 4, generator=g)
    result = precision_recall_density_coverage(real, fake)
    assert result["precision"] == 1 and result["recall"] < 0.05 and result["coverage"] < 0.1
