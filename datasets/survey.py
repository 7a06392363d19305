"""Survey a dataset without decoding pixels: image sizes, color modes, and the largest resolution that they allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from .base import DataError, Format, Header, Source
from .images import GRAY_MODES

THREADS = 8  # on a network disk each header costs a round trip, so reading several in parallel hides the latency


@dataclass
class Survey:
    """The headers of a dataset's images.

    Attributes:
        sizes: [readable, 2], width and height in pixels.
        indices: of the readable images, [readable].
        modes: number of images by Pillow mode.
        transparent: number of images with transparency.
        unreadable: reasons, by index of the image.
    """

    sizes: np.ndarray
    indices: np.ndarray
    modes: Counter[str]
    transparent: int
    unreadable: dict[int, str] = field(default_factory=dict)

    def compute_limiting_sides(self, fit: str) -> np.ndarray:
        """Return the sides that limit the resolution, [readable]: the short ones, or with "pad" the long ones."""
        return self.sizes.max(axis=1) if fit == "pad" else self.sizes.min(axis=1)


# The complete surveys of this process, by the first image's name and the number of images
_surveys: dict[tuple[str, int], Survey] = {}


def find_survey(source: Source) -> Survey | None:
    """Return the survey of all images if this process has made one, or None."""
    return _surveys.get((source.describe(0), len(source)))


def read_all_headers(source: Source) -> Survey:
    """Survey all images, several at a time.

    Raises:
        DataError: none of the images can be read.
    """
    survey = read_headers(source, range(len(source)))
    if not len(survey.indices):
        raise DataError(
            f"none of the {len(source)} images in {source.name} can be read; the first: {survey.unreadable[0]}"
        )
    _surveys[source.describe(0), len(source)] = survey
    return survey


def survey_sample(source: Source, most: int) -> Survey | None:
    """Survey at most `most` images at even distances; return None if none of them can be read."""
    indices = np.unique(np.linspace(0, len(source) - 1, most).astype(int)).tolist()
    survey = read_headers(source, indices)
    return survey if len(survey.indices) else None


def read_headers(source: Source, indices: Sequence[int]) -> Survey:
    """Survey the images with these indices."""
    unreadable: dict[int, str] = {}

    def read_header(index: int) -> Header | None:
        try:
            return source.header(index)
        except Exception as error:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
            unreadable[index] = first_line(error)
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        try:
            results = pool.map(read_header, indices)
        except RuntimeError:  # the system's limit of threads is reached
            results = map(read_header, indices)
        # delay=1: small datasets take less than a second and need no progress bar
        bar = tqdm(results, f"reading {source.name}", len(indices), unit="image", disable=None, leave=False, delay=1)
        headers = {i: header for i, header in zip(indices, bar, strict=True) if header}
    return Survey(
        np.array([header[:2] for header in headers.values()]),
        np.array(list(headers)),
        Counter(header.mode for header in headers.values()),
        sum(header.transparent for header in headers.values()),
        unreadable,
    )


def format_size_range(survey: Survey) -> tuple[str, str, str]:
    """Return the sizes of the smallest, the median and the largest image by area, each like "640x480"."""
    areas = survey.sizes.prod(axis=1)
    chosen = areas.argmin(), np.argsort(areas)[len(areas) // 2], areas.argmax()
    small, middle, large = (f"{width}x{height}" for width, height in survey.sizes[list(chosen)])
    return small, middle, large


def read_native_format(source: Source, fit: str = "center-crop", needs_size: bool = True) -> Format:
    """Return the largest resolution that the images allow without enlarging, and their channels.

    Args:
        needs_size: whether the resolution is used; if not, no image is too small.

    Raises:
        DataError: none of the images can be read, or one is too small for any network.
    """
    return derive_format(source, read_all_headers(source), fit, needs_size)


def derive_format(source: Source, survey: Survey, fit: str, needs_size: bool = True) -> Format:
    """Do the same as `read_native_format`, for a survey that exists already."""
    sides = survey.compute_limiting_sides(fit)
    smallest = int(sides.min())
    if smallest < 4 and needs_size:  # networks start at 4x4
        where = source.describe(int(survey.indices[sides.argmin()]))
        raise DataError(f"{where} is smaller than 4x4 pixels; remove it, or pass --resolution and --allow-upscale")
    gray = sum(n for mode, n in survey.modes.items() if mode.split(";")[0] in GRAY_MODES)
    clear, count, notes = survey.transparent, len(survey.indices), []
    if 0 < gray < count:
        notes.append(
            f"{gray} of {count} images are gray, the others in color: all are converted to RGB; "
            "for grayscale pass --channels 1"
        )
    if clear:
        notes.append(
            f"{clear} of {count} images have transparency, which is blended onto the --background; "
            "to keep it pass --channels 4"
        )
    few = max(count // 50, 1)  # our choice: 2% of the images are few enough to remove by hand
    usual = floor_power_of_two(int(np.sort(sides)[min(few, count - 1)]))
    if needs_size and usual > smallest:
        where, size = source.describe(int(survey.indices[sides.argmin()])), survey.sizes[sides.argmin()]
        notes.append(
            f"{where} with {size[0]}x{size[1]} pixels limits the resolution; all but {few} images allow {usual}"
        )
    return Format(floor_power_of_two(smallest), 1 if gray == count else 3, "; ".join(notes))


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message, or its type's name if there is none."""
    return (str(error) or type(error).__name__).split("\n")[0]


def floor_power_of_two(side: int) -> int:
    """Return the largest power of two up to a side in pixels, at most 1024, the largest resolution of the networks."""
    return min(1 << (side.bit_length() - 1), 1024)
