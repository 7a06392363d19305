import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pggan.metrics.preprocess import as_rgb, inception_input


def draw_images(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (32, 32), (299, 299), (64, 600)])
def test_tf1_resize_is_tensorflow_1_bilinear(size):
    source = draw_images(2, 3, *size).float()
    ours = 128 * (inception_input(source.byte()) + 1)
    assert ours.shape == (2, 3, 299, 299)
    rng = np.random.default_rng(1)
    pixels = [(0, 0), (0, 298), (298, 0), (298, 298), *rng.integers(0, 299, (500, 2)).tolist()]
    for row, column in pixels:
        y, x = row * size[0] / 299, column * size[1] / 299
        top, left = int(y), int(x)
        bottom, right = min(top + 1, size[0] - 1), min(left + 1, size[1] - 1)
        upper = source[..., top, left] * (1 - x + left) + source[..., top, right] * (x - left)
        lower = source[..., bottom, left] * (1 - x + left) + source[..., bottom, right] * (x - left)
        expected = upper * (1 - y + top) + lower * (y - top)
        torch.testing.assert_close(ours[..., row, column], expected, rtol=0, atol=0.03)


def test_as_rgb_repeats_one_channel_and_drops_alpha():
    source = draw_images(2, 4, 5, 6)
    for channels, expected in ((1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])):
        assert torch.equal(as_rgb(source[:, :channels]), source[:, expected])


@pytest.mark.parametrize("size", [(4, 4), (32, 48), (299, 299), (600, 64)])
def test_pytorch_fid_resize_is_bilinear_between_pixel_centers(size):
    source = draw_images(2, 3, *size)
    expected = 2 * F.interpolate(source.float() / 255, (299, 299), mode="bilinear", align_corners=False) - 1
    torch.testing.assert_close(inception_input(source, "pytorch-fid"), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("size", [(4, 4), (32, 48), (299, 299), (600, 64), (1024, 1024)])
def test_clean_resize_is_pillows_antialiased_bicubic_clipped(size):
    source = draw_images(1, 3, *size) // 128 * 255  # black and white, so that bicubic overshoots and is clipped
    channels = [Image.fromarray(c.numpy().astype(np.float32)).resize((299, 299), Image.BICUBIC) for c in source[0]]
    expected = torch.from_numpy(np.stack(channels).clip(0, 255)) / 128 - 1
    torch.testing.assert_close(inception_input(source, "clean")[0], expected, rtol=0, atol=2e-4)


def test_the_three_resize_modes_differ():
    source = draw_images(1, 3, 32, 32)
    results = [inception_input(source, mode) for mode in ("tf1", "pytorch-fid", "clean")]
    assert all((a - b).abs().mean() > 0.01 for a, b in zip(results, results[1:] + results[:1], strict=True))
