import math

import numpy as np
import pytest
import torch

from metrics import METRICS, MetricError, Suite, suite
from metrics.features import Features, FeatureStatistics
from metrics.weights import CACHED_NAMES, DOWNLOAD_HINT, find_download_folder


def images(count, seed=0, side=16, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture
def inception(monkeypatch):
    """Replace Inception by a tiny network with the given classifier; return a list of the batch sizes it receives."""

    def install(classifier=None):
        sizes = []

        class Network:
            def __init__(self, weights, device, resize, precision):
                self.resize, self.precision, self.device = resize, precision, torch.device(device)
                self.classifier, self.checksum = classifier, "checksum"

            def __call__(self, batch):
                sizes.append(len(batch))
                features = batch.float().mean(dim=(2, 3))
                return features, None if self.classifier is None else features @ self.classifier.T

        monkeypatch.setattr(suite, "load_weights", lambda *_: {})
        monkeypatch.setattr(suite, "Inception", Network)
        return sizes

    return install


@pytest.fixture
def no_weights(monkeypatch):
    def missing(path, say):
        raise MetricError(f"no Inception weights: {DOWNLOAD_HINT}")

    monkeypatch.setattr(suite, "load_weights", missing)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["fid", "is", "swd"], "skipping FID AND IS: "),
        (["swd", "fid"], "skipping FID: "),
        (["is"], "skipping IS: "),
        (["swd"], None),
    ],
)
def test_without_weights_one_line_says_so_and_swd_goes_on(no_weights, names, said):
    lines = []
    judge = Suite(names, log=lines.append)
    assert [line.startswith(said) and DOWNLOAD_HINT in line and "\n" not in line for line in lines] == [True] * bool(
        said
    )
    results = judge.compare(judge.compute_statistics([images(4)]), judge.compute_statistics([images(4, seed=1)]))
    assert list(results) == (["swd", "swd_16"] if "swd" in names else [])


def test_without_weights_a_file_that_was_named_is_an_error(no_weights):
    with pytest.raises(MetricError):
        Suite(["fid", "swd"], weights="named.pth")


def test_with_the_trunk_alone_is_is_said_to_be_missing_and_not_computed(inception):
    inception()
    lines = []
    judge = Suite(["fid", "is", "swd"], log=lines.append)
    assert len(lines) == 1 and lines[0].startswith("skipping IS: ") and "\n" not in lines[0]
    assert f"canonical file: curl -L --create-dirs -o {find_download_folder() / CACHED_NAMES[0]}" in lines[0]
    results = judge.compare(judge.compute_statistics([images(4)]), judge.compute_statistics([images(4, seed=1)]))
    assert list(results) == ["fid", "swd", "swd_16"] and all(map(math.isfinite, results.values()))


def test_one_feature_pass_feeds_every_metric(inception):
    sizes = inception(torch.eye(3))
    judge = Suite(METRICS, log=pytest.fail)
    judge.metrics["kid"].subset_size = 50
    real, fake = ([images(40), images(30, 1)], [images(40, 2), images(30, 3)])
    results = judge.compare(judge.compute_statistics(real), judge.compute_statistics(fake))
    assert set(results) == {
        *("fid", "fid_inf", "fid_inf_error", "is", "is_std", "kid", "kid_std"),
        *("precision", "recall", "density", "coverage", "swd", "swd_16", "msssim", "msssim_real"),
    }
    assert all(map(math.isfinite, results.values()))
    assert sizes == [32, 8, 30] * 2


def test_swd_alone_does_not_look_for_weights(monkeypatch):
    monkeypatch.setattr(suite, "load_weights", lambda *_: pytest.fail("looked for weights"))
    assert list(Suite(["swd", "msssim"]).metrics) == ["swd", "msssim"]


@pytest.mark.parametrize("names", [["fdi"], ["swd", "FID"]])
def test_an_unknown_metric_is_refused(names):
    with pytest.raises(MetricError, match=r"unknown metric .*; choose from fid, fid_inf, is, kid"):
        Suite(names)


@pytest.mark.parametrize(
    ("name", "count", "says"),
    [
        ("fid", 1, "at least 2"),
        ("kid", 999, "--kid-subset-size 999"),
        ("prdc", 5, "at least 6"),
        ("fid_inf", 999, "at least 1000"),
        ("msssim", 1, "at least 2"),
    ],
)
def test_too_few_images_are_refused_before_the_work(inception, name, count, says):
    inception()
    judge = Suite([name])
    for real, fake in ((count, 5000), (5000, count)):
        with pytest.raises(MetricError, match=says):
            judge.check(real, fake)
    judge.check(count + 1, count + 1)


def test_sets_of_different_shapes_are_refused():
    judge = Suite(["swd"])
    real = judge.compute_statistics([images(2)])
    for others in (images(2, side=32), images(2, channels=1)):
        with pytest.raises(MetricError, match=r"different shapes, 16x16 RGB and (32x32 RGB|16x16 grayscale)"):
            judge.compare(real, judge.compute_statistics([others]))
    with pytest.raises(MetricError, match="the images have different shapes, 16x16 RGB and 32x32 RGB"):
        judge.compute_statistics([images(2), images(2, side=32)])


class TestRemembered:
    names = ("fid", "kid", "swd")

    def judge(self, cache, **options):
        judge = Suite(self.names, cache=cache, log=pytest.fail, **options)
        judge.metrics["kid"].subset_size = 4
        return judge

    def test_the_features_come_from_the_cache_and_the_numbers_are_the_same(self, inception, tmp_path):
        sizes = inception()
        fake = self.judge(None).compute_statistics([images(40, 1)])
        plain = self.judge(tmp_path).compare(self.judge(None).compute_statistics([images(40)]), fake)
        for _ in range(2):
            sizes.clear()
            judge = self.judge(tmp_path)
            assert judge.compare(judge.load_or_compute(lambda: [images(40)]), fake) == plain
        assert sizes == []
        assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["features", "statistics"]

    def test_a_metric_that_is_new_is_computed_beside_what_is_there(self, inception, tmp_path):
        sizes = inception()
        Suite(["fid"], cache=tmp_path).load_or_compute(lambda: [images(40)])
        sizes.clear()
        description = self.judge(tmp_path).load_or_compute(lambda: [images(40)])
        assert sizes == [32, 8] and {FeatureStatistics, Features} < description.accumulators.keys()

    @pytest.mark.parametrize("change", ["a pixel", "the order", "the resize", "the precision", "one more"])
    def test_anything_that_matters_makes_it_another_set(self, inception, tmp_path, change):
        sizes = inception()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        sizes.clear()
        other, options = images(20), {}
        if change == "a pixel":
            other[7, 1, 2, 3] ^= 1
        elif change == "the order":
            other = other.flip(0)
        elif change == "one more":
            other = torch.cat([other, other[:1]])
        else:
            options = {"resize": "clean"} if change == "the resize" else {"precision": "bf16"}
        self.judge(tmp_path, **options).load_or_compute(lambda: [other])
        assert sizes == [len(other)]

    def test_the_batches_do_not_matter(self, inception, tmp_path):
        sizes = inception()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        sizes.clear()
        self.judge(tmp_path).load_or_compute(lambda: images(20).split(7))
        assert sizes == []

    @pytest.mark.parametrize("damage", [b"", b"PK", None])
    def test_a_damaged_file_is_computed_anew(self, inception, tmp_path, damage):
        sizes = inception()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        for path in tmp_path.iterdir():
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        sizes.clear()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        assert sizes == [20]

    def test_a_folder_that_cannot_be_written_is_said_and_the_work_goes_on(self, inception, tmp_path):
        inception()
        (tmp_path / "file").touch()
        lines = []
        judge = Suite(["fid"], cache=tmp_path / "file" / "cache", log=lines.append)
        assert judge.load_or_compute(lambda: [images(20)]).count == 20
        assert len(lines) == 1 and lines[0].startswith("cannot cache the features")

    def test_arrays_that_are_not_those_of_the_images_are_computed_anew(self, inception, tmp_path):
        sizes = inception()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        for path in tmp_path.iterdir():
            with np.load(path) as file:
                arrays = dict(file)
            wrong = arrays | ({"count": np.array(5)} if "count" in arrays else {"features": arrays["features"][:7]})
            np.savez(path, **wrong)
        sizes.clear()
        self.judge(tmp_path).load_or_compute(lambda: [images(20)])
        assert sizes == [20]

    def test_is_does_not_send_the_real_images_through_inception_again(self, inception, tmp_path):
        sizes = inception(torch.eye(3))
        for _ in range(2):
            judge = Suite(["fid", "is"], cache=tmp_path, log=pytest.fail)
            real, fake = judge.load_or_compute(lambda: [images(20)]), judge.compute_statistics([images(24, 1)])
            assert {"fid", "is"} < judge.compare(real, fake).keys()
        assert sizes == [20, 24, 24]


def test_results_and_how_they_were_made_have_different_names(inception):
    inception(torch.eye(3))
    judge = Suite(METRICS)
    judge.metrics["kid"].subset_size = 10
    description = judge.compute_statistics([images(20)])
    assert not judge.compare(description, description).keys() & judge.settings().keys()
