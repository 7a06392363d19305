"""Read a source's images in batches, without a cache: for metrics, and for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .arrays import Arrays
from .base import DataError, Source
from .images import Preparation, apply_orientation, convert_channels
from .survey import first_line

BATCH = 64  # images per batch; our choice, results do not depend on it
SEED = 2020  # for drawing and shuffling images: torch-fidelity's default seed


class ImageStream:
    """A dataset's images as RGB, in a fixed random order.

    Files are shuffled, because their names often follow the classes, and MS-SSIM compares consecutive images, which
    should be independent. Arrays keep their order.

    Args:
        source: the images.
        count: number of images to draw, with a fixed seed; None for all.
        prepare: makes the images equally large; None if they are already, of any size and aspect ratio.
        background: color under transparent pixels; `prepare` has its own.

    Attributes:
        indices: of the images used, in their order.

    Raises:
        DataError: there are fewer than `count` images.
    """

    def __init__(
        self, source: Source, count: int | None = None, prepare: Preparation | None = None, background: str = "white"
    ):
        self.source, self.prepare, self.background = source, prepare, background
        total = len(source)
        if count is not None and count > total:
            raise DataError(f"--num-images: {source.name} has {total} images, fewer than {count}; use at most {total}")
        order = np.arange(total) if isinstance(source, Arrays) else np.random.RandomState(SEED).permutation(total)
        chosen = np.arange(total) if count is None else np.random.RandomState(SEED).choice(total, count, replace=False)
        self.indices = order[np.sort(chosen)]

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[np.ndarray]:
        """Yield uint8 batches [N, 3, H, W].

        Raises:
            DataError: an image cannot be read, since a metric of part of a dataset is not the dataset's; or without
                `prepare`, the images have different sizes.
        """
        first: tuple[int, ...] | None = None
        with ThreadPoolExecutor() as threads:  # Pillow decodes without Python's global lock
            for start in range(0, len(self), BATCH):
                indices = self.indices[start : start + BATCH].tolist()
                images = list(threads.map(self.read, indices))
                for index, image in zip(indices, images, strict=True):
                    first = first or image.shape
                    if image.shape != first:
                        raise DataError(
                            f"{self.source.name} has images of different sizes: "
                            f"{self.source.describe(int(self.indices[0]))} is {first[2]}x{first[1]} and "
                            f"{self.source.describe(index)} is {image.shape[2]}x{image.shape[1]}; use --resolution to "
                            "crop and resize them"
                        )
                yield np.stack(images)

    def read(self, index: int) -> np.ndarray:
        """Return an image, uint8 [3, H, W]. Raises DataError if it cannot be read."""
        resolution = self.prepare.resolution if self.prepare else 0
        try:
            with self.source.read_image(index, resolution, 3) as picture:
                if self.prepare:
                    return self.prepare(picture)
                image = convert_channels(apply_orientation(picture), 3, self.background)
                return np.asarray(image).transpose(2, 0, 1)
        except Exception as error:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
            raise DataError(f"cannot read {self.source.describe(index)}: {first_line(error)}") from None
