import errno
import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from pggan.metrics import METRICS, MetricError, Suite, networks
from pggan.metrics.features import Features, FeatureStatistics
from pggan.metrics.swd import SWD, PatchDescriptors, find_temporary_folder
from pggan.metrics.weights import CACHED_NAMES, DOWNLOAD_HINT, find_download_folder


def draw_images(count, seed=0, side=16, channels=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


@pytest.fixture
def inception(monkeypatch):
    """Replace Inception by a tiny network with the given classifier; return a list of the batch sizes it receives."""

    def install(classifier=None):
        sizes = []

        class Network:
            kind = name = "inception"
            dimensions = 3

            def __init__(self, weights, device, resize="tf1", precision="fp32"):
                self.resize, self.precision, self.device = resize, precision, torch.device(device)
                self.classifier, self.checksum = classifier, "checksum"

            def __call__(self, batch):
                sizes.append(len(batch))
                features = batch.float().mean(dim=(2, 3))
                return features, None if self.classifier is None else features @ self.classifier.T

        monkeypatch.setattr(networks, "load_weights", lambda *_: {})
        monkeypatch.setattr(networks, "Inception", Network)
        return sizes

    return install


@pytest.fixture
def no_weights(monkeypatch):
    def fail(path, say):
        raise MetricError(f"no Inception weights: {DOWNLOAD_HINT}")

    monkeypatch.setattr(networks, "load_weights", fail)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["fid", "is", "swd"], "warning: skipping FID and IS: "),
        (["swd", "fid"], "warning: skipping FID: "),
        (["is"], "warning: skipping IS: "),
        (["swd"], None),
    ],
)
def test_without_weights_one_warning_is_logged_and_swd_still_runs(no_weights, names, message):
    lines = []
    evaluator = Suite(names, log=lines.append)
    assert [line.startswith(message) and DOWNLOAD_HINT in line and "\n" not in line for line in lines] == [True] * bool(
        message
    )
    results = evaluator.compare(
        evaluator.compute_statistics([draw_images(4)]), evaluator.compute_statistics([draw_images(4, seed=1)])
    )
    assert list(results) == (["swd", "swd_16"] if "swd" in names else [])


def test_a_specified_weights_file_that_is_missing_is_an_error(no_weights):
    with pytest.raises(MetricError):
        Suite(["fid", "swd"], weights="named.pth")


def test_without_the_classifier_is_is_skipped_with_a_warning(inception):
    inception()
    lines = []
    evaluator = Suite(["fid", "is", "swd"], log=lines.append)
    assert len(lines) == 1 and lines[0].startswith("warning: skipping IS: ") and "\n" not in lines[0]
    assert f"canonical file: curl -L --create-dirs -o {find_download_folder() / CACHED_NAMES[0]}" in lines[0]
    results = evaluator.compare(
        evaluator.compute_statistics([draw_images(4)]), evaluator.compute_statistics([draw_images(4, seed=1)])
    )
    assert list(results) == ["fid", "swd", "swd_16"] and all(map(math.isfinite, results.values()))


def test_one_feature_pass_feeds_every_metric(inception):
    sizes = inception(torch.eye(3))
    evaluator = Suite(METRICS.keys() - {"cmmd"}, log=pytest.fail)
    evaluator.metrics["kid"].subset_size = 50
    real, fake = ([draw_images(40), draw_images(30, 1)], [draw_images(40, 2), draw_images(30, 3)])
    results = evaluator.compare(evaluator.compute_statistics(real), evaluator.compute_statistics(fake))
    assert set(results) == {
        *("fid", "fid_inf", "fid_inf_error", "is", "is_std", "kid", "kid_std", "mind"),
        *("precision", "recall", "density", "coverage", "swd", "swd_16", "msssim", "msssim_real"),
    }
    assert all(map(math.isfinite, results.values()))
    assert sizes == [32, 8, 30] * 2


def test_swd_and_msssim_alone_need_no_weights(monkeypatch):
    monkeypatch.setattr(networks, "load_weights", lambda *_: pytest.fail("searched for weights"))
    assert list(Suite(["swd", "msssim"]).metrics) == ["swd", "msssim"]


@pytest.mark.parametrize("names", [["fdi"], ["swd", "FID"]])
def test_an_unknown_metric_is_rejected(names):
    with pytest.raises(MetricError, match=r"unknown metric .*; choose from fid, fid_inf, is, kid"):
        Suite(names)


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("fid", 1, "at least 2"),
        ("kid", 1, "at least 2"),
        ("prdc", 5, "at least 6"),
        ("fid_inf", 999, "at least 1000"),
        ("msssim", 1, "at least 2"),
    ],
)
def test_too_few_images_are_rejected_before_computing(inception, name, count, message):
    inception()
    evaluator = Suite([name])
    for real, fake in ((count, 5000), (5000, count)):
        with pytest.raises(MetricError, match=message):
            evaluator.check(real, fake)
    evaluator.check(count + 1, count + 1)


def test_images_of_different_shapes_are_rejected():
    evaluator = Suite(["swd"])
    real = evaluator.compute_statistics([draw_images(2)])
    for others in (draw_images(2, side=32), draw_images(2, channels=1)):
        with pytest.raises(MetricError, match=r"different shapes, 16x16 RGB and (32x32 RGB|16x16 grayscale)"):
            evaluator.compare(real, evaluator.compute_statistics([others]))
    with pytest.raises(MetricError, match="the images have different shapes, 16x16 RGB and 32x32 RGB"):
        evaluator.compute_statistics([draw_images(2), draw_images(2, side=32)])


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (MemoryError(), "memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), f"disk space in {find_temporary_folder()}"),
    ],
)
def test_a_metric_that_runs_out_of_memory_is_skipped_with_a_warning(monkeypatch, error, what):
    lines = []
    evaluator = Suite(["swd", "msssim"], log=lines.append)

    def fail(*arguments):
        raise error

    real = evaluator.compute_statistics([draw_images(4)])
    with monkeypatch.context() as patch:
        patch.setattr(PatchDescriptors, "update", fail)
        fake = evaluator.compute_statistics([draw_images(4, 1), draw_images(4, 2)])
    assert lines == [f"warning: skipping SWD: out of {what}; use fewer images, or omit swd from --metrics"]
    assert fake.count == 8 and list(evaluator.compare(real, fake)) == ["msssim", "msssim_real"]
    monkeypatch.setattr(SWD, "compare", fail)
    assert list(evaluator.compare(real, real)) == ["msssim", "msssim_real"] and len(lines) == 2


def test_other_errors_of_a_metric_are_not_swallowed(monkeypatch):
    monkeypatch.setattr(SWD, "compare", lambda *_: torch.zeros(2) @ torch.zeros(3))
    evaluator = Suite(["swd"], log=pytest.fail)
    statistics = evaluator.compute_statistics([draw_images(4)])
    with pytest.raises(RuntimeError, match="size"):
        evaluator.compare(statistics, statistics)


class TestCache:
    names = ("fid", "kid", "swd")

    def make_suite(self, cache, **options):
        evaluator = Suite(self.names, cache=cache, log=pytest.fail, **options)
        evaluator.metrics["kid"].subset_size = 4
        return evaluator

    def test_features_come_from_the_cache_and_the_scores_are_the_same(self, inception, tmp_path):
        sizes = inception()
        fake = self.make_suite(None).compute_statistics([draw_images(40, 1)])
        plain = self.make_suite(tmp_path).compare(self.make_suite(None).compute_statistics([draw_images(40)]), fake)
        for _ in range(2):
            sizes.clear()
            evaluator = self.make_suite(tmp_path)
            assert evaluator.compare(evaluator.load_or_compute(lambda: [draw_images(40)]), fake) == plain
        assert sizes == []
        assert sorted(p.name.split("-")[0] for p in tmp_path.iterdir()) == ["features", "statistics"]

    def test_a_new_metric_is_computed_in_addition_to_the_cached_ones(self, inception, tmp_path):
        sizes = inception()
        Suite(["fid"], cache=tmp_path).load_or_compute(lambda: [draw_images(40)])
        sizes.clear()
        statistics = self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(40)])
        assert sizes == [32, 8] and {FeatureStatistics, Features} < statistics.accumulators.keys()

    @pytest.mark.parametrize("change", ["a pixel", "the order", "the resize", "the precision", "one more"])
    def test_any_relevant_change_misses_the_cache(self, inception, tmp_path, change):
        sizes = inception()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        sizes.clear()
        other, options = draw_images(20), {}
        if change == "a pixel":
            other[7, 1, 2, 3] ^= 1
        elif change == "the order":
            other = other.flip(0)
        elif change == "one more":
            other = torch.cat([other, other[:1]])
        else:
            options = {"resize": "clean"} if change == "the resize" else {"precision": "bf16"}
        self.make_suite(tmp_path, **options).load_or_compute(lambda: [other])
        assert sizes == [len(other)]

    def test_batch_sizes_do_not_affect_the_cache(self, inception, tmp_path):
        sizes = inception()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        sizes.clear()
        self.make_suite(tmp_path).load_or_compute(lambda: draw_images(20).split(7))
        assert sizes == []

    def test_known_images_are_not_read(self, inception, tmp_path):
        inception()
        identity = "digest", 20, (3, 16, 16)
        suite = Suite(["fid"], cache=tmp_path, log=pytest.fail)
        suite.load_or_compute(lambda: [draw_images(20)], identity=identity)
        found = suite.load_or_compute(lambda: pytest.fail("read the images"), identity=identity)
        assert found.count == 20 and found.shape == (3, 16, 16)

    @pytest.mark.parametrize("damage", [b"", b"PK", None])
    def test_damaged_cache_files_are_recomputed(self, inception, tmp_path, damage):
        sizes = inception()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        for path in tmp_path.iterdir():
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        sizes.clear()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        assert sizes == [20]

    def test_an_unwritable_cache_is_warned_about_and_computing_continues(self, inception, tmp_path):
        inception()
        (tmp_path / "file").touch()
        lines = []
        evaluator = Suite(["fid"], cache=tmp_path / "file" / "cache", log=lines.append)
        assert evaluator.load_or_compute(lambda: [draw_images(20)]).count == 20
        assert len(lines) == 1 and lines[0].startswith("warning: cannot cache the real images' features")

    def test_cached_arrays_that_do_not_fit_the_images_are_recomputed(self, inception, tmp_path):
        sizes = inception()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        for path in tmp_path.iterdir():
            with np.load(path) as file:
                arrays = dict(file)
            wrong = arrays | ({"count": np.array(5)} if "count" in arrays else {"features": arrays["features"][:7]})
            np.savez(path, **wrong)
        sizes.clear()
        self.make_suite(tmp_path).load_or_compute(lambda: [draw_images(20)])
        assert sizes == [20]

    def test_is_does_not_recompute_the_features_of_real_images(self, inception, tmp_path):
        sizes = inception(torch.eye(3))
        for _ in range(2):
            evaluator = Suite(["fid", "is"], cache=tmp_path, log=pytest.fail)
            real, fake = (
                evaluator.load_or_compute(lambda: [draw_images(20)]),
                evaluator.compute_statistics([draw_images(24, 1)]),
            )
            assert {"fid", "is"} < evaluator.compare(real, fake).keys()
        assert sizes == [20, 24, 24]


def test_scores_and_settings_have_different_names(inception):
    inception(torch.eye(3))
    evaluator = Suite(METRICS.keys() - {"cmmd"})
    evaluator.metrics["kid"].subset_size = 10
    statistics = evaluator.compute_statistics([draw_images(20)])
    assert not evaluator.compare(statistics, statistics).keys() & evaluator.settings().keys()


def test_features_are_in_main_memory_because_they_travel_between_processes(inception):
    inception(torch.ones(2, 3))
    evaluator = Suite(["fid", "is"], "weights")
    network = evaluator.inception

    class OnGPU:
        device = torch.device("cuda")

        def __call__(self, batch):
            return tuple(x.cuda() for x in network(batch))

    evaluator.inception = OnGPU()
    with FakeTensorMode(allow_non_fake_inputs=True):
        (part,) = evaluator.extract(draw_images(4), ["features", "logits"])
        assert network(draw_images(4))[0].cuda().is_cuda  # the stand-in works
    assert {x.device.type for x in part.features.values()} == {"cpu"}
