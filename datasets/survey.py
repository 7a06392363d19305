"""Survey a dataset without decoding pixels: image sizes, color modes, and the largest resolution that they allow."""

from __future__ import annotations

import io
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL
from tqdm import tqdm

from .base import DAMAGED, DataError, Format, Header, Source
from .cache_files import find_cache_folder, write_atomically
from .content import get_index_file, read_stamp
from .images import GRAY_MODES
from .parallel import count_cores, map_parallel

# Per process: on a network disk each header costs a round trip, so reading several at a time hides the latency.
THREADS = 8
CHUNK = 512  # headers per task of a process, our choice: a fraction of a second on a local disk


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

    def count_gray(self) -> int:
        """Return the number of gray images."""
        return sum(n for mode, n in self.modes.items() if mode.split(";")[0] in GRAY_MODES)

    def compute_limiting_sides(self, fit: str) -> np.ndarray:
        """Return the sides that limit the resolution, [readable]: the short ones, or with "pad" the long ones."""
        return self.sizes.max(axis=1) if fit == "pad" else self.sizes.min(axis=1)


class HeaderReader:
    """A function that reads the headers of several images; it can be pickled for workers.

    Returns:
        For each image its header, or why it cannot be read.
    """

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, indices: Sequence[int]) -> tuple[Sequence[int], list[Header | str]]:
        with ThreadPoolExecutor(THREADS) as pool:
            try:
                return indices, list(pool.map(self.read, indices))
            except RuntimeError:  # the system's limit of threads is reached
                return indices, list(map(self.read, indices))

    def read(self, index: int) -> Header | str:
        try:
            return self.source.header(index)
        except Exception as error:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
            return first_line(error)


def read_headers(source: Source, indices: range | list[int], workers: int | None = None) -> Survey:
    """Survey the images with these indices, several at a time, with a progress bar."""
    chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
    builder = SurveyBuilder()
    # delay=1: small datasets take less than a second and need no progress bar
    bar = tqdm(total=len(indices), desc=f"reading {source.name}", unit="image", disable=None, leave=False, delay=1)
    with bar:
        for chunk, headers in map_parallel(HeaderReader(source), chunks, min(workers or count_cores(), len(chunks))):
            builder.add(chunk, headers)
            bar.update(len(chunk))
    return builder.finish()


class SurveyBuilder:
    """Collects headers, in any order, into a Survey; small, because a million Python objects take 100 MB or more."""

    def __init__(self) -> None:
        self.sizes, self.indices = array("i"), array("q")
        self.modes: Counter[str] = Counter()
        self.transparent = 0
        self.unreadable: dict[int, str] = {}

    def add(self, indices: Iterable[int], headers: Iterable[Header | str]) -> None:
        """Add images. headers: for each index its header, or why it cannot be read."""
        for index, header in zip(indices, headers, strict=True):
            if isinstance(header, str):
                self.unreadable[index] = header
                continue
            self.indices.append(index)
            self.sizes.extend(header[:2])
            self.modes[header.mode] += 1
            self.transparent += header.transparent

    def finish(self) -> Survey:
        """Return the survey, in the order of the indices."""
        indices, sizes = np.array(self.indices), np.array(self.sizes).reshape(-1, 2)
        order = np.argsort(indices)
        unreadable = dict(sorted(self.unreadable.items()))
        return Survey(sizes[order], indices[order], self.modes, self.transparent, unreadable)


def find_survey(source: Source) -> Survey | None:
    """Return the survey of all images if it was made before and no file has changed since, or None."""
    try:
        with np.load(get_survey_file(source), allow_pickle=False) as stored:
            facts = json.loads(bytes(stored["facts"]))
            unreadable = {int(index): why for index, why in facts["unreadable"].items()}
            indices = np.delete(np.arange(len(source)), list(unreadable))
            return Survey(stored["sizes"], indices, Counter(facts["modes"]), facts["transparent"], unreadable)
    except DAMAGED:  # most likely it does not exist
        return None


def store_survey(source: Source, survey: Survey) -> None:
    """Record the survey of all images in the index of datasets, if the cache folder is writable."""
    facts = {"modes": survey.modes, "transparent": survey.transparent, "unreadable": survey.unreadable}
    content = io.BytesIO()
    np.savez_compressed(content, sizes=survey.sizes, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8))
    with suppress(OSError):
        file = get_survey_file(source)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.getvalue())


def get_survey_file(source: Source) -> Path:
    """Return the path of a survey: by the files' stamp, and by the version of Pillow, which may read other files."""
    return get_index_file(find_cache_folder(), f"{read_stamp(source)}-headers-{PIL.__version__}.npz")


def survey_all(source: Source, workers: int | None = None) -> Survey:
    """Survey all images, or return the stored survey of unchanged files.

    Args:
        workers: processes that read headers (default: one per core).

    Raises:
        DataError: none of the images can be read.
    """
    if (survey := find_survey(source)) is None:
        survey = read_headers(source, range(len(source)), workers)
        store_survey(source, survey)
    return check_readable(source, survey)


def check_readable(source: Source, survey: Survey) -> Survey:
    """Return the survey. Raises DataError if none of the images can be read."""
    if not len(survey.indices):
        raise DataError(
            f"none of the {len(source)} images in {source.name} can be read; the first: {survey.unreadable[0]}"
        )
    return survey


def survey_sample(source: Source, most: int) -> Survey | None:
    """Survey at most `most` images at even distances; return None if none of them can be read."""
    survey = read_headers(source, np.unique(np.linspace(0, len(source) - 1, most).astype(int)).tolist())
    return survey if len(survey.indices) else None


def format_size_range(survey: Survey) -> tuple[str, str, str]:
    """Return the sizes of the smallest, the median and the largest image by area, each like "640x480"."""
    areas = survey.sizes.prod(axis=1)
    chosen = areas.argmin(), np.argsort(areas)[len(areas) // 2], areas.argmax()
    small, middle, large = (f"{width}x{height}" for width, height in survey.sizes[list(chosen)])
    return small, middle, large


def read_native_format(
    source: Source, fit: str = "center-crop", needs_size: bool = True, workers: int | None = None
) -> Format:
    """Return the largest resolution that the images allow without enlarging, and their channels.

    Args:
        needs_size: whether the resolution is used; if not, no image is too small.
        workers: processes that read headers (default: one per core).

    Raises:
        DataError: none of the images can be read, or one is too small for any network.
    """
    return derive_format(source, survey_all(source, workers), fit, needs_size)


def derive_format(source: Source, survey: Survey, fit: str, needs_size: bool = True) -> Format:
    """Do the same as `read_native_format`, for a survey that exists already."""
    sides = survey.compute_limiting_sides(fit)
    smallest = int(sides.min())
    if smallest < 4 and needs_size:  # networks start at 4x4
        where = source.describe(int(survey.indices[sides.argmin()]))
        raise DataError(f"{where} is smaller than 4x4 pixels; remove it, or pass --resolution and --allow-upscale")
    gray, clear, count, notes = survey.count_gray(), survey.transparent, len(survey.indices), []
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
