"""The order of the data: a permutation for each epoch, from the seed alone."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """The order of an epoch, int64 [size], from seed and epoch alone."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def shuffled(seed: int, start: int, count: int, size: int) -> np.ndarray:
    """Indices [count] of the images numbered start, start + 1, ... in an endless shuffled walk over `size` images.

    Every image comes once in each epoch, and any part of the walk can be computed without the rest of it.
    """
    positions = np.arange(start, start + count)
    epochs, places = np.divmod(positions, size)
    return np.concatenate([permutation(seed, int(epoch), size)[places[epochs == epoch]] for epoch in np.unique(epochs)])
