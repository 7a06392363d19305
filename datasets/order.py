"""The order in which images are used: one permutation per epoch, from the seed alone."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)  # a batch spans at most two epochs, unless the dataset is smaller than the batch
def epoch_permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of an epoch, int64 [size], a function of seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(size)


def shuffled_indices(seed: int, start: int, count: int, size: int) -> np.ndarray:
    """Return the indices [count] at positions start, start + 1, ... of an endless shuffled sequence over `size` images.

    Every image occurs once per epoch, and any part of the sequence can be computed without the rest.
    """
    positions = np.arange(start, start + count)
    epochs, places = np.divmod(positions, size)
    return np.concatenate(
        [epoch_permutation(seed, int(epoch), size)[places[epochs == epoch]] for epoch in np.unique(epochs)]
    )
