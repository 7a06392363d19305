"""The commands of `python -m datasets`: each prints its result and returns the process's exit code."""

from __future__ import annotations

import hashlib
import io
import shutil
import time
import zipfile
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from pggan.console import escape_for_terminal

from .base import DataError, Header, Source, has_too_many_bad
from .build import count_used_bytes, estimate_cache_bytes, find_duplicates, format_bytes
from .cache_files import find_cache_folder
from .content import find_or_compute_content
from .images import Preparation, apply_orientation, read_header, to_pillow
from .levels import level_resolutions
from .listing import class_folders
from .parallel import count_cores, map_parallel
from .pyramid import (
    Pyramid,
    explain_cache_errors,
    find_cache,
    get_building_folder,
    get_cache_folder,
    make_cache_lock,
    open_pyramid,
    try_lock,
)
from .sheet import make_grid
from .sources import open_source
from .survey import (
    Survey,
    SurveyBuilder,
    check_readable,
    derive_format,
    first_line,
    format_size_range,
    store_survey,
    survey_all,
)

TIMED_IMAGES = 24  # images decoded to estimate the time of a build; our choice: more would take longer to estimate
DECODE_SPAN = 16  # images per task of `decode_images`; our choice, small enough for a progress bar that moves
MAX_GRID = 1024  # images in a grid; our choice, 32 x 32
ENCODED_AT_ONCE = 256  # files in memory while exporting: up to 1 GB at 1024x1024
GRID_SIDE = 1024  # pixels; grids of small images are enlarged to about this side, as it fits most screens
DARK_LEVEL = 1 << 14  # 16-bit images that stay below a quarter of the range become dark; 12-bit scans reach 4095


def choose_preparation(arguments: Namespace, source: Source, survey: Survey | None = None) -> Preparation:
    """Return the preparation that the options request; unset options follow from the images."""
    resolution, channels = arguments.resolution, arguments.channels
    if resolution is None or channels is None:
        survey = survey or survey_all(source, getattr(arguments, "workers", None))
        native = derive_format(source, survey, arguments.fit, needs_size=resolution is None)
        resolution = native.resolution if resolution is None else resolution
        channels = native.channels if channels is None else channels
        if native.note and arguments.channels is None:
            print(native.note)
    return Preparation(resolution, channels, arguments.fit, arguments.background)


def open_prepared(arguments: Namespace) -> tuple[Source, Preparation]:
    """Open the source that the options specify, and choose its preparation. Raises DataError."""
    source = open_source(arguments.data, arguments.labels)
    return source, choose_preparation(arguments, source)


def print_skipped(source: Source) -> None:
    """Print notes on skipped files, and on how the images and classes were found."""
    for line in [*source.describe_skipped(), *source.notes]:
        print(f"note        {line}")


def print_plan(arguments: Namespace) -> int:
    """Print the size and build time of a cache, and the reasons for which building it would fail (exit code 2)."""
    source = open_source(arguments.data, arguments.labels)
    survey = survey_all(source, arguments.workers)
    prepare = choose_preparation(arguments, source, survey)
    cache = find_cache_folder()
    with explain_cache_errors(cache):
        folder = find_cache(source, prepare, cache)
        building = get_building_folder(source, prepare, cache)
    disk = next(p for p in building.parents if p.exists())
    needed, free = estimate_cache_bytes(len(source), prepare), shutil.disk_usage(disk).free
    small = int((survey.compute_limiting_sides(arguments.fit) < prepare.resolution).sum())
    levels = ", ".join(map(str, level_resolutions(prepare.resolution)))
    workers = arguments.workers or count_cores()
    is_built, used = False, 0
    if folder is not None and folder.exists():
        is_built, state = True, f"already built: {folder.name}"
    elif building.exists():
        state, used = f"partly built, the build will resume: {building.name}", count_used_bytes(building)
    else:
        state = "not built yet"
    print(f"images      {len(source)} in {arguments.data}" + format_classes(source))
    print_skipped(source)
    print(f"sizes       {format_sizes(survey)}")
    print(f"cache       {prepare.resolution}x{prepare.resolution}, {format_channels(prepare)}; levels {levels}")
    print(f"disk        {format_bytes(needed)}; {format_bytes(free)} free in {disk}")
    print(f"state       {state}")
    if not is_built:
        seconds = measure_image_seconds(source, prepare) * len(source) / workers
        print(f"time        about {seconds:.0f} s with {workers} processes, if the disk keeps up")
    if survey.unreadable:
        first = min(survey.unreadable)
        print(f"unreadable  {len(survey.unreadable)} headers, the first in {source.describe(first)}: ", end="")
        print(survey.unreadable[first])
    problems = []
    if small and not arguments.allow_upscale:
        problems.append(
            f"{small} images are smaller than {prepare.resolution}: pass --allow-upscale or a lower --resolution"
        )
    if has_too_many_bad(len(survey.unreadable), len(source), arguments.max_bad):
        problems.append(
            f"{len(survey.unreadable)} images cannot be read, more than --max-bad {100 * arguments.max_bad:.3g}% allows"
        )
    if needed - used > free and not is_built:
        problems.append("the disk has too little free space: free some, or set PGGAN_CACHE to a folder on another disk")
    for problem in problems:
        print(f"refused     {problem}")
    return 2 if problems else 0


def build_pyramid(arguments: Namespace) -> int:
    """Build a cache, or resume building it."""
    start = time.perf_counter()
    pyramid = open_or_build(arguments)
    print(f"{len(pyramid)} images in {pyramid.folder} ({time.perf_counter() - start:.1f} s)")
    return 0


def open_or_build(arguments: Namespace) -> Pyramid:
    """Open the cache of the dataset that the options specify; build it first if it does not exist."""
    source, prepare = open_prepared(arguments)
    pyramid = open_pyramid(
        source,
        prepare.resolution,
        prepare.channels,
        fit=prepare.fit,
        background=prepare.background,
        allow_upscale=arguments.allow_upscale,
        max_bad=arguments.max_bad,
        workers=arguments.workers,
    )
    print_skipped(source)
    return pyramid


def export(arguments: Namespace) -> int:
    """Write the images, prepared as for training, as .png files to a new folder or zip."""
    out = Path(arguments.out)
    if out.exists():
        raise DataError(f"--out: {out} exists already; choose another name")
    pyramid = open_or_build(arguments)
    temporary = out.with_name(out.name + ".part")  # renamed when complete
    try:
        if out.suffix.lower() == ".zip":
            # stored: PNG files are compressed already
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
                for name, data in encode_images(pyramid):
                    archive.writestr(name, data)
        else:
            shutil.rmtree(temporary, ignore_errors=True)
            for name, data in encode_images(pyramid):
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        temporary.rename(out)
    except OSError as error:
        raise DataError(f"--out: cannot write {out}: {error.strerror or error}") from None
    print(f"wrote {len(pyramid)} images of {pyramid.resolution}x{pyramid.resolution} pixels to {out}")
    return 0


def encode_images(pyramid: Pyramid) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a .png file for each image; with labels, the name begins with the class and a slash."""
    labels = np.zeros(len(pyramid), int) if pyramid.labels is None else pyramid.labels
    folders = [f"{name}/" for name in class_folders(pyramid.classes)] or [""]

    def encode(index: int) -> tuple[str, bytes]:
        pixels = pyramid.read_images(pyramid.resolution, [index])[0].transpose(1, 2, 0)
        file = io.BytesIO()
        to_pillow(pixels).save(file, "PNG")
        return f"{folders[labels[index]]}{index:08d}.png", file.getvalue()

    count = len(pyramid)
    bar = tqdm(total=count, desc="exporting", unit="image", disable=None, leave=False)
    with bar, ThreadPoolExecutor(count_cores()) as threads:  # zlib compresses without Python's global lock
        for start in range(0, count, ENCODED_AT_ONCE):
            for file in threads.map(encode, range(start, min(start + ENCODED_AT_ONCE, count))):
                yield file
                bar.update()


class DecodedImage(NamedTuple):
    """The result of decoding an image.

    Attributes:
        number: the image's index.
        header: its header, or why that cannot be read.
        error: why the image cannot be read, or "".
        check: a checksum of its size, mode and pixels, 64 bits; 0 if it cannot be read.
        max_gray: the largest value of 16-bit grayscale; 0 for other images.
    """

    number: int
    header: Header | str
    error: str
    check: int = 0
    max_gray: int = 0


class Decoder:
    """A function that decodes a span (start, stop) of images; it can be pickled for workers."""

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, span: tuple[int, int]) -> list[DecodedImage]:
        return [self.decode(index) for index in range(*span)]

    def decode(self, index: int) -> DecodedImage:
        header: Header | str = ""
        try:
            with self.source.read_image(index, 0, 3) as picture:
                header = read_header(picture)
                image = apply_orientation(picture)
                # palettes and transparency can store the same pixels in different ways
                if image.mode == "P" or image.has_transparency_data:
                    image = image.convert("RGBA")
                digest = hashlib.blake2b(f"{image.size}{image.mode}".encode(), digest_size=8)
                digest.update(image.tobytes())
                max_gray = int(np.asarray(picture).max()) if picture.mode.startswith("I") else 0
                return DecodedImage(index, header, "", int.from_bytes(digest.digest(), "little") or 1, max_gray)
        except Exception as error:  # Pillow raises many types for damaged files, also struct.error and SyntaxError
            return DecodedImage(index, header or first_line(error), first_line(error))


def decode_images(source: Source, workers: int | None) -> tuple[Survey, dict[int, str], dict[int, int], int]:
    """Decode all images, with a progress bar.

    Returns:
        The survey of their headers; the reasons why images are unreadable, by index; for each image that repeats an
        earlier one, the earlier one's index; the largest value of 16-bit grayscale, 0 without such images.
    """
    count = len(source)
    spans = [(start, min(start + DECODE_SPAN, count)) for start in range(0, count, DECODE_SPAN)]
    bad: dict[int, str] = {}
    max_gray, builder = 0, SurveyBuilder()
    checks = np.zeros(count, np.uint64)
    with tqdm(total=count, desc="decoding", unit="image", disable=None, leave=False) as bar:
        for images in map_parallel(Decoder(source), spans, min(workers or count_cores(), len(spans))):
            bar.update(len(images))
            builder.add([image.number for image in images], [image.header for image in images])
            for image in images:
                max_gray = max(max_gray, image.max_gray)
                if image.error:
                    bad[image.number] = image.error
                else:
                    checks[image.number] = image.check
    return builder.finish(), bad, find_duplicates(checks), max_gray


def inspect(arguments: Namespace) -> int:
    """Decode every image, and print sizes, color modes, duplicates, unreadable files and classes."""
    source = open_source(arguments.data, arguments.labels)
    survey, bad, copies, max_gray = decode_images(source, arguments.workers)
    store_survey(source, survey)
    native = derive_format(source, check_readable(source, survey), arguments.fit, needs_size=False)
    print(f"images      {len(source)} in {arguments.data}")
    print_skipped(source)
    print(f"sizes       {format_sizes(survey)}")
    print(f"by side     {format_sides(survey, arguments.fit)}")
    print(f"modes       {', '.join(f'{count} {mode}' for mode, count in survey.modes.most_common())}")
    if native.resolution < 4:
        print("training    the smallest image is below 4x4: pass --resolution and --allow-upscale, or remove it")
    else:
        print(f"training    defaults to --resolution {native.resolution} --channels {native.channels}")
    if native.note:
        print(f"note        {native.note}")
    if 0 < max_gray < DARK_LEVEL:
        print(
            f"note        16-bit images reach at most {max_gray} of 65535 and will be dark: "
            "scale their values to the full range first"
        )
    print_list("duplicates", [f"{source.describe(i)}: same as {source.describe(copies[i])}" for i in sorted(copies)])
    print_list("unreadable", [f"{source.describe(i)}: {bad[i]}" for i in sorted(bad)])
    print_list("other files", source.others, "without an image extension")
    if source.labels is not None:
        counts = np.bincount(source.labels, minlength=len(source.classes))
        print(f"classes     {len(source.classes)}")
        for name, count in zip(source.classes, counts, strict=True):
            print(f"  {name:<20} {count:>8}  {'#' * round(40 * count / counts.max())}")
    return 0


def write_grid(arguments: Namespace) -> int:
    """Write a grid of images at even distances in the dataset, prepared as for training."""
    source, prepare = open_prepared(arguments)
    if not 1 <= arguments.count <= MAX_GRID:
        raise DataError(f"--count: {arguments.count} is not between 1 and {MAX_GRID}")
    images, enlarged = [], 0
    for index in np.unique(np.linspace(0, len(source) - 1, arguments.count).astype(int)).tolist():
        try:
            with source.read_image(index, prepare.resolution, prepare.channels) as picture:
                images.append(prepare(picture))
                enlarged += prepare.is_enlarged(*picture.size)
        except Exception as error:  # Pillow raises many types for damaged files
            print(f"skipped {source.describe(index)}: {first_line(error)}")
    if not images:
        raise DataError(f"none of the images in {arguments.data} can be read")
    grid = make_grid(np.stack(images), GRID_SIDE)
    try:
        grid.save(arguments.out)
    except (OSError, ValueError) as error:
        raise DataError(f"--out: {arguments.out} cannot be written: {error}") from None
    print(f"{len(images)} images at {prepare.resolution}x{prepare.resolution} in {arguments.out}", end="")
    print(f", {enlarged} of them enlarged" if enlarged else "")
    return 0


def verify(arguments: Namespace) -> int:
    """Compare a cache with its checksums, and a random sample of it with freshly decoded images.

    Raises:
        DataError: there is no cache of the images in their present state, or it differs.
    """
    source, prepare = open_prepared(arguments)
    cache = find_cache_folder()
    with explain_cache_errors(cache):
        folder = get_cache_folder(source, prepare, cache, find_or_compute_content(source, cache))
    if not folder.exists():
        raise DataError(
            f"there is no cache of {arguments.data} in its present state; build it with "
            "python -m pggan.datasets build and the same options"
        )
    pyramid = Pyramid(folder)
    if wrong := pyramid.find_damage():
        raise DataError(
            f"{len(wrong)} of {len(pyramid)} images in {folder} are damaged, the first at index {wrong[0]}; remove the "
            f"cache with python -m pggan.datasets clean {folder.name}, then build it again"
        )
    # without a fixed seed, so that repeated calls check other images
    chosen = np.random.default_rng().permutation(len(pyramid))[: arguments.decode]
    for index in tqdm(chosen, "decoding", unit="image", disable=None, leave=False):
        row = int(pyramid.rows[index])
        with source.read_image(row, prepare.resolution, prepare.channels) as picture:
            if (prepare(picture) != pyramid.read_images(prepare.resolution, [index])[0]).any():
                raise DataError(
                    f"{source.describe(row)} now decodes to other pixels than those in {folder}, probably because "
                    f"another version of Pillow built it; rebuild it after python -m pggan.datasets clean {folder.name}"
                )
    print(f"{folder} is intact: {len(pyramid)} images, {len(chosen)} of them decoded again")
    return 0


def clean(arguments: Namespace) -> int:
    """List all caches, after removing those that the options select."""
    folders = sorted(p for p in (find_cache_folder() / "datasets").glob("*") if p.is_dir())
    names = {p.name for p in folders}
    if unknown := [key for key in arguments.keys if key not in names]:
        raise DataError(
            f"there is no cache {unknown[0]} in {find_cache_folder() / 'datasets'}; list them with "
            "python -m pggan.datasets clean"
        )
    chosen: Callable[[Path], bool] = lambda p: (  # noqa: E731
        arguments.all or p.name in arguments.keys or (arguments.unfinished and p.name.startswith("building-"))
    )
    for folder in folders:
        # st_blocks, in units of 512 bytes, is the space on the disk; Windows lacks it
        size = format_bytes(sum(getattr(f.stat(), "st_blocks", 0) * 512 or f.stat().st_size for f in folder.iterdir()))
        outcome, content = "", describe_cache(folder)
        if chosen(folder):
            outcome = "removed" if remove_cache(folder) else "kept: another process is building it"
        print(f"{folder.name:<44} {size:>10}  {content}  {outcome}".rstrip())
    if not folders:
        print(f"no caches in {find_cache_folder() / 'datasets'}")
    if arguments.all:
        shutil.rmtree(find_cache_folder() / "known", ignore_errors=True)  # the index, see content.py
    return 0


def remove_cache(folder: Path) -> bool:
    """Remove a complete or partial cache; return False, without removing it, if a process is building it."""
    lock = make_cache_lock(folder.name, find_cache_folder())
    try:
        try_lock(lock)
        shutil.rmtree(folder)
    except Timeout:
        return False
    finally:
        lock.release()
    return True


def describe_cache(folder: Path) -> str:
    """Return a cache's dataset and number of images, or "unfinished" or "damaged"."""
    try:
        meta = Pyramid(folder).meta
    except (DataError, OSError):
        return "unfinished" if folder.name.startswith("building-") else "damaged"
    return f"{escape_for_terminal(meta['source'])}, {meta['count'] - len(meta['bad'])} images"


def measure_image_seconds(source: Source, prepare: Preparation) -> float:
    """Return the time in seconds to decode and prepare an image, measured on a few images."""
    decoded, start = 0, time.perf_counter()
    for index in np.linspace(0, len(source) - 1, TIMED_IMAGES).astype(int).tolist():
        try:
            with source.read_image(index, prepare.resolution, prepare.channels) as picture:
                prepare(picture)
            decoded += 1
        except Exception:  # an unreadable image, which takes part in the estimate only by its time
            continue
    return (time.perf_counter() - start) / max(decoded, 1)


def format_classes(source: Source) -> str:
    """Return the number of classes as the end of a line: ", 10 classes", or ""."""
    return f", {len(source.classes)} classes" if source.classes else ""


def format_channels(prepare: Preparation) -> str:
    """Return the number of channels and the fit: "3 channels, center-crop"."""
    return f"{prepare.channels} channel{'s' if prepare.channels > 1 else ''}, {prepare.fit}"


def format_sizes(survey: Survey) -> str:
    """Return the range of sizes: "640x480 to 4032x3024, median 1024x768 pixels"."""
    small, middle, large = format_size_range(survey)
    return f"all {small} pixels" if small == large else f"{small} to {large}, median {middle} pixels"


def format_sides(survey: Survey, fit: str) -> str:
    """Return the number of images by the largest resolution that each allows: "12 up to 64, 488 up to 128"."""
    sides = np.minimum(survey.compute_limiting_sides(fit), 1024)  # 1024: the networks' largest resolution
    counts = Counter((1 << (int(side).bit_length() - 1)) for side in sides)
    return ", ".join(f"{counts[r]} up to {r}" for r in sorted(counts))


def print_list(label: str, lines: list[str], reason: str = "") -> None:
    """Print a label with the number of lines and the reason for the list, then the lines."""
    print(f"{label:<11} {len(lines)}" + (f", {reason}" if reason and lines else ""))
    for line in lines:
        print(f"  {line}")
