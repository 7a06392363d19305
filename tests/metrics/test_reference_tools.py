"""Compare with torch-fidelity, pytorch-fid and clean-fid on the same images, weights and seeds."""

import numpy as np
import pytest
import torch

from pggan.metrics import Suite
from pggan.metrics.features import Features, FeatureStatistics
from pggan.metrics.fid import FID
from pggan.metrics.inception import Inception
from pggan.metrics.kid import KID
from pggan.metrics.prdc import PRDC
from pggan.metrics.preprocess import inception_input
from pggan.metrics.weights import load_weights

SUBSET = 10


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.fixture(scope="module")
def samples(some_cifar10):
    """Return real images, and others that differ in distribution: every fourth is brighter and flatter."""
    fake = some_cifar10["test"][:16].clone()
    fake[::4] = fake[::4] // 2 + 100
    return some_cifar10["train"][:16], fake


def test_fid_is_and_kid_match_torch_fidelity(samples, weights_file):
    torch_fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    suite = Suite(["fid", "is", "kid"], weights_file, log=pytest.fail)
    suite.metrics["kid"].subset_size = SUBSET
    ours = suite.compare(*(suite.compute_statistics(images.split(10)) for images in samples))
    real, fake = map(Images, samples)
    theirs = torch_fidelity.calculate_metrics(
        input1=fake,
        input2=real,
        fid=True,
        isc=True,
        kid=True,
        kid_subset_size=SUBSET,
        cuda=False,
        verbose=False,
        feature_extractor_weights_path=str(weights_file),
        cache=False,
        batch_size=32,
    )
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], abs=1e-3)
    names = {
        "is": "inception_score_mean",
        "is_std": "inception_score_std",
        "kid": "kernel_inception_distance_mean",
        "kid_std": "kernel_inception_distance_std",
    }
    assert {n: ours[n] for n in names} == pytest.approx({n: theirs[t] for n, t in names.items()}, rel=1e-4)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_kid_precision_and_recall_match_torch_fidelity_on_the_same_features(shift):
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    generator = torch.Generator().manual_seed(0)
    real, fake = torch.randn(300, 64, generator=generator), torch.randn(400, 64, generator=generator) + shift
    accumulators = [Features(), Features()]
    for features, x in zip(accumulators, (real, fake), strict=True):
        features.update(x)
    ours = KID(subset_size=100).compare(*accumulators) | PRDC().compare(*accumulators)
    kid_options = {"kid_subsets": 100, "kid_subset_size": 100, "rng_seed": 2020, "verbose": False}
    prc_options = {"prc_neighborhood": 3, "prc_batch_size": 10000, "save_cpu_ram": False, "verbose": False}
    theirs = kid.kid_features_to_metric(fake, real, **kid_options)
    theirs |= prc.prc_features_to_metric(fake, real, **prc_options)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-7)
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)
    assert [ours[n] for n in ("precision", "recall")] == pytest.approx([theirs["precision"], theirs["recall"]])


@pytest.fixture(scope="module")
def pytorch_fid(weights):
    inception = pytest.importorskip("pytorch_fid.inception", reason="pytorch-fid is not installed")
    with pytest.MonkeyPatch.context() as patch:
        file = weights | {"fc.bias": torch.zeros(1008)}
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: file)
        return inception.InceptionV3([3]).eval()


@torch.no_grad()
def test_features_and_fid_match_pytorch_fid_in_its_mode(samples, weights, pytorch_fid):
    network = Inception(weights, resize="pytorch-fid")
    statistics = {"ours": [], "theirs": []}
    for images in (images[:8] for images in samples):
        features = {"ours": network(images)[0], "theirs": pytorch_fid(images.float() / 255)[0][:, :, 0, 0]}
        torch.testing.assert_close(features["ours"], features["theirs"], rtol=0, atol=2e-4)
        for code, x in features.items():
            statistics[code].append(FeatureStatistics())
            statistics[code][-1].update(x)
    fids = {code: FID().compare(*both)["fid"] for code, both in statistics.items()}
    assert fids["ours"] == pytest.approx(fids["theirs"], abs=1e-3)


def test_the_clean_mode_matches_clean_fids_network_input(some_cifar10):
    resize = pytest.importorskip("cleanfid.resize", reason="clean-fid is not installed")
    func = resize.make_resizer("PIL", False, "bicubic", (299, 299))
    images = some_cifar10["train"][:4]
    theirs = np.stack([func(image.permute(1, 2, 0).numpy()) for image in images]).transpose(0, 3, 1, 2)
    torch.testing.assert_close(inception_input(images, "clean"), torch.from_numpy(theirs) / 128 - 1, rtol=0, atol=2e-4)


def test_inception_score_of_cifar10_matches_the_published_value(cifar10):
    full = load_weights()
    if "fc.weight" not in full:
        pytest.skip("the canonical Inception weights, with the classifier, are not available")
    chosen = np.sort(np.random.RandomState(2020).choice(50000, 5000, replace=False))
    suite = Suite(["is"], log=pytest.fail)
    statistics = suite.compute_statistics(torch.from_numpy(cifar10["train"][chosen]).split(50))
    # the value that torch-fidelity publishes for these 5,000 images
    assert suite.compare(statistics, statistics)["is"] == pytest.approx(10.75051, rel=1e-4)
