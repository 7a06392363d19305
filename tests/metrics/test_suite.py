import math

import pytest
import torch

from metrics import METRICS, MetricError, Suite, suite
from metrics.weights import HOW_TO


def images(count, seed=0):
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def inception(monkeypatch):
    """Put a stand-in for Inception in place, with the classifier given; returns the sizes of the batches it gets."""

    def install(classifier):
        sizes = []

        def network(batch):
            sizes.append(len(batch))
            features = batch.float().mean(dim=(2, 3))
            return features, None if classifier is None else features @ classifier.T

        network.classifier = classifier
        monkeypatch.setattr(suite, "load_weights", lambda path: {})
        monkeypatch.setattr(suite, "Inception", lambda weights, device: network)
        return sizes

    return install


@pytest.fixture
def no_weights(monkeypatch):
    def missing(path):
        raise MetricError(f"no Inception weights: {HOW_TO}")

    monkeypatch.setattr(suite, "load_weights", missing)


@pytest.mark.parametrize(
    ("names", "said"),
    [(["fid", "is", "swd"], "FID AND IS not"), (["swd", "fid"], "FID not"), (["is"], "IS not"), (["swd"], None)],
)
def test_without_weights_one_line_says_so_and_swd_goes_on(no_weights, names, said):
    lines = []
    judge = Suite(names, say=lines.append)
    assert [line.startswith(said) and HOW_TO in line and "\n" not in line for line in lines] == [True] * bool(said)
    results = judge.compare(judge.describe([images(4)]), judge.describe([images(4, seed=1)]))
    assert list(results) == (["swd", "swd_16"] if "swd" in names else [])


def test_without_weights_a_file_that_was_named_is_an_error(no_weights):
    with pytest.raises(MetricError):
        Suite(["fid", "swd"], weights="named.pth")


def test_with_the_trunk_alone_is_is_said_to_be_missing_and_not_computed(inception):
    inception(None)
    lines = []
    judge = Suite(["fid", "is", "swd"], say=lines.append)
    assert len(lines) == 1 and lines[0].startswith("IS not available") and "\n" not in lines[0]
    results = judge.compare(judge.describe([images(4)]), judge.describe([images(4, seed=1)]))
    assert list(results) == ["fid", "swd", "swd_16"] and all(map(math.isfinite, results.values()))


def test_with_the_classifier_every_metric_is_computed(inception):
    sizes = inception(torch.eye(3))
    judge = Suite(METRICS, say=pytest.fail)
    real, fake = ([images(40), images(30, 1)], [images(40, 2), images(30, 3)])
    results = judge.compare(judge.describe(real), judge.describe(fake))
    assert set(results) == {"fid", "is", "is_std", "swd", "swd_16"} and all(map(math.isfinite, results.values()))
    assert sizes == [32, 8, 30] * 2


def test_swd_alone_does_not_look_for_weights(monkeypatch):
    monkeypatch.setattr(suite, "load_weights", lambda path: pytest.fail("looked for weights"))
    assert list(Suite(["swd"]).metrics) == ["swd"]


@pytest.mark.parametrize("names", [["fdi"], ["swd", "FID"]])
def test_an_unknown_metric_is_refused(names):
    with pytest.raises(MetricError, match="is not a metric; choose from fid, is, swd"):
        Suite(names)
