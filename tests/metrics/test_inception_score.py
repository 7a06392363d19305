import numpy as np
import pytest
import torch

from pggan.metrics.inception_score import IS, inception_score


def score_by_formula(logits, splits):
    """Return the mean and deviation by the paper's formula in NumPy, for the same shuffle."""
    logits = logits[np.random.RandomState(2020).permutation(len(logits))]
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for part in (p[i * len(p) // splits : (i + 1) * len(p) // splits] for i in range(splits)):
        divergence = (part * np.log(part / part.mean(axis=0))).sum(axis=1)
        scores.append(np.exp(divergence.mean()))
    return np.mean(scores), np.std(scores)


def test_uniform_predictions_score_one():
    assert inception_score(torch.zeros(100, 1008).double()) == pytest.approx((1, 0), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 10, 1008])
def test_confident_and_balanced_predictions_score_the_number_of_classes(classes):
    logits = 1000 * torch.eye(classes).double().repeat(10, 1)
    assert inception_score(logits, splits=1) == pytest.approx((classes, 0), rel=1e-9, abs=1e-9)


def test_confident_predictions_of_one_class_score_one():
    logits = 1000 * torch.eye(10).double()[:1].repeat(50, 1)
    assert inception_score(logits) == pytest.approx((1, 0), abs=1e-9)


def test_images_sorted_by_class_are_shuffled_before_scoring():
    mean, _ = inception_score(1000 * torch.eye(10).double().repeat_interleave(100, dim=0))
    assert mean > 9


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (103, 10), (60, 1)])
def test_score_agrees_with_the_formula(count, splits):
    logits = np.random.default_rng(1).normal(0, 2, (count, 50))
    assert inception_score(torch.from_numpy(logits), splits) == pytest.approx(
        score_by_formula(logits, splits), rel=1e-9
    )


def test_fewer_images_than_splits_give_a_finite_score():
    mean, deviation = inception_score(torch.randn(3, 10, generator=torch.Generator().manual_seed(0)).double())
    assert (mean, deviation) == pytest.approx((1, 0))


def test_only_generated_images_are_scored_in_their_order():
    logits = np.random.default_rng(2).normal(0, 2, (80, 20)).astype(np.float32)
    metric = IS()
    real, fake = metric.accumulator_type(), metric.accumulator_type()
    real.update(torch.zeros(7, 20))
    for start in (0, 30, 64):
        fake.update(torch.from_numpy(logits[start : {0: 30, 30: 64, 64: 80}[start]]))
    mean, deviation = score_by_formula(logits.astype(np.float64), 10)
    assert metric.compare(real, fake) == pytest.approx({"is": mean, "is_std": deviation}, rel=1e-9)
