"""What a set holds, before its pixels are decoded: sizes, kinds, what would have to be enlarged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from .base import DataError, Format, Header, Source
from .images import GRAY_MODES


@dataclass
class Survey:
    """Headers of all images.

    Attributes:
        sizes: [readable, 2], width and height in pixels. indices: of the readable images [readable].
        modes: how many images have each Pillow mode. transparent: how many have transparency.
        unreadable: reasons by index.
    """

    sizes: np.ndarray
    indices: np.ndarray
    modes: Counter[str]
    transparent: int
    unreadable: dict[int, str] = field(default_factory=dict)

    def compute_limiting_sides(self, fit: str) -> np.ndarray:
        return self.sizes.max(axis=1) if fit == "pad" else self.sizes.min(axis=1)


_known: dict[tuple[str, int], Survey] = {}  # of this process, by the first image's name and the number of images


def known_survey(source: Source) -> Survey | None:
    """Return the survey of these images that this process has made already, or None."""
    return _known.get((source.describe(0), len(source)))


def read_all_headers(source: Source) -> Survey:
    """Read the headers of all images, files of a network disk many at once.

    Raises:
        DataError: none of the images can be read.
    """
    found = read_headers(source, range(len(source)))
    if not len(found.indices):
        raise DataError(
            f"none of the {len(source)} images in {source.name} can be read; the first: {found.unreadable[0]}"
        )
    _known[source.describe(0), len(source)] = found
    return found


def survey_some(source: Source, most: int) -> Survey | None:
    """Read the headers of so many images at most, evenly spread; None if none of them can be read."""
    chosen = np.unique(np.linspace(0, len(source) - 1, most).astype(int)).tolist()
    found = read_headers(source, chosen)
    return found if len(found.indices) else None


def read_headers(source: Source, chosen: Sequence[int]) -> Survey:
    """Read the headers of some images."""
    unreadable: dict[int, str] = {}

    def look(index: int) -> Header | None:
        try:
            return source.header(index)
        except Exception as error:  # Pillow raises many kinds for damaged files, also struct.error and SyntaxError
            unreadable[index] = first_line(error)
            return None

    with ThreadPoolExecutor(8) as pool:
        try:
            looks = pool.map(look, chosen, chunksize=64)
        except RuntimeError:  # a limit of threads
            looks = map(look, chosen)
        bar = tqdm(looks, f"reading {source.name}", len(chosen), unit="image", disable=None, leave=False, delay=1)
        headers = {i: header for i, header in zip(chosen, bar, strict=True) if header}
    return Survey(
        np.array([header[:2] for header in headers.values()]),
        np.array(list(headers)),
        Counter(header.mode for header in headers.values()),
        sum(header.transparent for header in headers.values()),
        unreadable,
    )


def size_range(found: Survey) -> tuple[str, str, str]:
    """Return the smallest, the median and the largest size by area, as in "640x480"."""
    areas = found.sizes.prod(axis=1)
    chosen = areas.argmin(), np.argsort(areas)[len(areas) // 2], areas.argmax()
    small, middle, large = (f"{width}x{height}" for width, height in found.sizes[list(chosen)])
    return small, middle, large


def read_native_format(source: Source, fit: str = "center-crop", needs_size: bool = True) -> Format:
    """The resolution and channels that images have by themselves.

    needs_size: whether the resolution is of interest; otherwise no image is too small.

    Raises:
        DataError: none of the images can be read, or one is too small for any network.
    """
    return derive_format(source, read_all_headers(source), fit, needs_size)


def derive_format(source: Source, found: Survey, fit: str, needs_size: bool = True) -> Format:
    """`read_native_format` of a set that has been looked at."""
    sides = found.compute_limiting_sides(fit)
    smallest = int(sides.min())
    if smallest < 4 and needs_size:
        where = source.describe(int(found.indices[sides.argmin()]))
        raise DataError(f"{where} is smaller than 4x4 pixels; remove it, or give --resolution and --allow-upscale")
    gray = sum(n for mode, n in found.modes.items() if mode.split(";")[0] in GRAY_MODES)
    clear, count, notes = found.transparent, len(found.indices), []
    if 0 < gray < count:
        notes.append(f"{gray} of {count} images are gray, the others in colour: all become RGB, unless --channels 1")
    if clear:
        notes.append(f"{clear} of {count} images have transparency: laid on the --background, unless --channels 4")
    few = max(count // 50, 1)
    usual = floor_power_of_two(int(np.sort(sides)[min(few, count - 1)]))
    if needs_size and usual > smallest:
        where, size = source.describe(int(found.indices[sides.argmin()])), found.sizes[sides.argmin()]
        notes.append(
            f"{where} with {size[0]}x{size[1]} pixels limits the resolution; all but {few} images allow {usual}"
        )
    return Format(floor_power_of_two(smallest), 1 if gray == count else 3, "; ".join(notes))


def first_line(error: Exception) -> str:
    """The first line of what an exception says."""
    return (str(error) or type(error).__name__).split("\n")[0]


def floor_power_of_two(side: int) -> int:
    """The largest resolution that fits in a side, at most 1024."""
    return min(1 << (side.bit_length() - 1), 1024)
