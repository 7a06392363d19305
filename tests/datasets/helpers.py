import numpy as np
from PIL import Image

from datasets import Preparation


def pixels(source, index, resolution, channels, **options):
    """An image of a source, prepared: uint8 [channels, resolution, resolution]."""
    with source.read_image(index, resolution, channels) as picture:
        return Preparation(resolution, channels, **options)(picture)


def fill(folder, *names, size=(8, 8), mode="RGB", colour=0):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, colour).save(folder / name)


def noise(folder, count, size=(16, 16), suffix=".png", seed=0):
    """Images of noise, each another; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f"{i:04d}{suffix}" for i in range(count)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(path)
    return paths
