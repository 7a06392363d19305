import numpy as np
from PIL import Image

from pggan.datasets import Preparation


def read_pixels(source, index, resolution, channels, **options):
    """Return a prepared image of a source, uint8 [channels, resolution, resolution]."""
    with source.read_image(index, resolution, channels) as image:
        return Preparation(resolution, channels, **options)(image)


def save_blanks(folder, *names, size=(8, 8), mode="RGB", color=0):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, color).save(folder / name)


def save_noise(folder, count, size=(16, 16), suffix=".png", seed=0):
    """Save `count` different images of noise and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:04d}{suffix}" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths
