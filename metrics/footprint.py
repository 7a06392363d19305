"""Estimate the memory of an evaluation before any image is read."""

from __future__ import annotations

from collections.abc import Iterable

from .features import DIMENSIONS, Features, FeatureStatistics
from .inception import CLASSES
from .inception_score import Logits
from .suite import INCEPTION_BATCH, METRICS
from .swd import CHUNK, DIRECTIONS, IMAGES, MAX_VALUES, PATCH, PATCHES_PER_IMAGE, SMALLEST_LEVEL, PatchDescriptors

# Measured on a CPU: FID of 64 images per side takes 880 MB, of which the matrices are 268.
INCEPTION_BYTES = 620 << 20  # weights, and activations of a batch of 32
FID_MATRICES = 8  # [D, D] in float64 at a time: sums of both sides, covariances, and factors
PYRAMID_COPIES = 8  # of MAX_VALUES, as float32, while the patches are drawn; measured: 41 MB at 1024x1024, 123 at 32x32
CHUNK_COPIES = 8  # of a chunk of patches, while it is normalized and projected; measured: 266 to 297 MB for RGB


def estimate_metric_memory(
    names: Iterable[str], num_images: int, num_reals: int, channels: int, side: int
) -> tuple[int, int]:
    """Return the bytes of memory and of temporary files that metrics need, besides the generator and one batch.

    Args:
        names: keys of METRICS. num_images, num_reals: generated and real images.
    """
    types = {METRICS[name]().accumulator_type for name in names}
    held = {Features: 4 * DIMENSIONS * (num_images + num_reals), Logits: 4 * CLASSES * num_images}
    memory = sum(count for accumulator_type, count in held.items() if accumulator_type in types)
    if types & {Features, FeatureStatistics, Logits}:
        memory += INCEPTION_BYTES + 4 * channels * side**2 * INCEPTION_BATCH["cpu"]  # images as float32 to be resized
    largest = 8 * DIMENSIONS**2 * FID_MATRICES if FeatureStatistics in types else 0
    if PatchDescriptors not in types:
        return memory + largest, 0
    patches = [PATCHES_PER_IMAGE * min(count, IMAGES) for count in (num_images, num_reals)]
    # float32: the pyramid of a part of a batch, or the projections of both sides and a chunk of their patches
    chunk = channels * PATCH**2 * min(CHUNK, max(patches))
    largest = max(largest, 4 * PYRAMID_COPIES * MAX_VALUES, 4 * (DIRECTIONS * sum(patches) + CHUNK_COPIES * chunk))
    levels = max((side // SMALLEST_LEVEL).bit_length(), 1)
    return memory + largest, 4 * channels * PATCH**2 * levels * sum(patches)
