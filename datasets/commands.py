"""What `python -m datasets` does: each command prints, and returns the process's exit code."""

from __future__ import annotations

import hashlib
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import Timeout
from tqdm import tqdm

from .base import DataError, Source, escape_for_terminal, has_too_many_bad
from .build import building_folder, count_used_bytes, estimate_cache_bytes, format_bytes, read_stamp
from .cache_files import find_cache_folder
from .images import Preparation, apply_orientation
from .levels import level_resolutions
from .parallel import count_cores, map_parallel
from .pyramid import Pyramid, compute_cache_key, make_cache_lock, open_pyramid, take, using_cache
from .sheet import make_grid
from .sources import open_source
from .survey import Survey, derive_format, first_line, read_all_headers, size_range


def choose_preparation(arguments: Namespace, source: Source, found: Survey | None = None) -> Preparation:
    """How the images are to be prepared, asking them for what was not given."""
    resolution, channels = arguments.resolution, arguments.channels
    if resolution is None or channels is None:
        native = derive_format(source, found or read_all_headers(source), arguments.fit, needs_size=resolution is None)
        resolution = native.resolution if resolution is None else resolution
        channels = native.channels if channels is None else channels
        if native.note and arguments.channels is None:
            print(native.note)
    return Preparation(resolution, channels, arguments.fit, arguments.background)


def open_prepared(arguments: Namespace) -> tuple[Source, Preparation]:
    """The source that the options name, and how its images are prepared."""
    source = open_source(arguments.data, arguments.labels)
    return source, choose_preparation(arguments, source)


def cache_path(source: Source, prepare: Preparation) -> Path:
    """Where the cache of a source is. Raises DataError where there is no place for caches."""
    with using_cache(find_cache_folder()):
        return (
            find_cache_folder()
            / "datasets"
            / compute_cache_key(source, prepare, find_cache_folder(), read_stamp(source))
        )


def print_skipped(source: Source) -> None:
    """Print what is not used, and how the classes were found."""
    for line in [*source.skipped(), *source.notes]:
        print(f"note        {line}")


def print_plan(arguments: Namespace) -> int:
    """Print what a cache will take."""
    source = open_source(arguments.data, arguments.labels)
    found = read_all_headers(source)
    prepare = choose_preparation(arguments, source, found)
    folder = cache_path(source, prepare)
    place = next(p for p in folder.parents if p.exists())
    needed, free = estimate_cache_bytes(len(source), prepare), shutil.disk_usage(place).free
    small = int((found.compute_limiting_sides(arguments.fit) < prepare.resolution).sum())
    levels = ", ".join(map(str, level_resolutions(prepare.resolution)))
    workers = arguments.workers or count_cores()
    state = "built already" if folder.exists() else "to be built"
    taken = 0
    if building_folder(folder).exists():
        state, taken = "partly built, will be continued", count_used_bytes(building_folder(folder))
    print(f"images      {len(source)} in {arguments.data}" + format_classes(source))
    print_skipped(source)
    print(f"sizes       {format_sizes(found)}")
    print(f"cache       {prepare.resolution}x{prepare.resolution}, {format_channels(prepare)}; levels {levels}")
    print(f"disk        {format_bytes(needed)}; {format_bytes(free)} free in {place}")
    print(f"state       {state}: {folder.name}")
    if not folder.exists():
        seconds = measure_image_seconds(source, prepare) * len(source) / workers
        print(f"time        about {seconds:.0f} s with {workers} processes, if the disk keeps up")
    if found.unreadable:
        first = min(found.unreadable)
        print(f"unreadable  {len(found.unreadable)} by their headers, the first {source.describe(first)}: ", end="")
        print(found.unreadable[first])
    problems = []
    if small and not arguments.allow_upscale:
        problems.append(
            f"{small} images are smaller than {prepare.resolution}: --allow-upscale or a lower --resolution"
        )
    if has_too_many_bad(len(found.unreadable), len(source), arguments.max_bad):
        problems.append(f"{len(found.unreadable)} images cannot be read, more than --max-bad allows")
    if needed - taken > free and not folder.exists():
        problems.append("the disk has too little room: make some, or set PGGAN_CACHE")
    for problem in problems:
        print(f"refused     {problem}")
    return 2 if problems else 0


def build_pyramid(arguments: Namespace) -> int:
    """Build a cache."""
    source, prepare = open_prepared(arguments)
    start = time.perf_counter()
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
    print(f"{len(pyramid)} images in {pyramid.folder} ({time.perf_counter() - start:.1f} s)")
    return 0


class DecodedImage(NamedTuple):
    """What a decoded image is: why it cannot be read or "", a digest of its pixels, the whitest of 16-bit grays."""

    number: int
    why: str
    digest: bytes = b""
    whitest: int = 0


class Decoder:
    """Decodes images and says what they are; called with (start, stop) in any process."""

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, span: tuple[int, int]) -> list[DecodedImage]:
        return [self.decode(index) for index in range(*span)]

    def decode(self, index: int) -> DecodedImage:
        try:
            with self.source.read_image(index, 0, 3) as picture:
                image = apply_orientation(picture)
                if image.mode == "P" or image.has_transparency_data:
                    image = image.convert("RGBA")
                digest = hashlib.blake2b(f"{image.size}{image.mode}".encode(), digest_size=16)
                digest.update(image.tobytes())
                whitest = int(np.asarray(picture).max()) if picture.mode.startswith("I") else 0
                return DecodedImage(index, "", digest.digest(), whitest)
        except Exception as error:  # Pillow raises many kinds for damaged files, also struct.error and SyntaxError
            return DecodedImage(index, first_line(error))


def decode_images(source: Source, workers: int | None) -> tuple[dict[int, str], dict[int, int], int]:
    """Why images cannot be read, by index; for each copy of an earlier image that one's; the whitest 16-bit gray."""
    step, count = 16, len(source)
    spans = [(start, min(start + step, count)) for start in range(0, count, step)]
    bad: dict[int, str] = {}
    whitest = 0
    digests: dict[bytes, list[int]] = {}
    with tqdm(total=count, desc="decoding", unit="image", disable=None, leave=False) as bar:
        for images in map_parallel(Decoder(source), spans, min(workers or count_cores(), len(spans))):
            bar.update(len(images))
            for image in images:
                whitest = max(whitest, image.whitest)
                if image.why:
                    bad[image.number] = image.why
                else:
                    digests.setdefault(image.digest, []).append(image.number)
    return bad, {i: min(alike) for alike in digests.values() for i in alike if i != min(alike)}, whitest


def inspect(arguments: Namespace) -> int:
    """Decode every image and print what there is."""
    source = open_source(arguments.data, arguments.labels)
    found = read_all_headers(source)
    native = derive_format(source, found, arguments.fit, needs_size=False)
    print(f"images      {len(source)} in {arguments.data}")
    print_skipped(source)
    print(f"sizes       {format_sizes(found)}")
    print(f"by side     {format_sides(found, arguments.fit)}")
    print(f"kinds       {', '.join(f'{count} {mode}' for mode, count in found.modes.most_common())}")
    if native.resolution < 4:
        print("for training the smallest image is too small: give --resolution and --allow-upscale, or remove it")
    else:
        print(
            f"for training --resolution {native.resolution} --channels {native.channels}, where nothing else is given"
        )
    if native.note:
        print(f"note        {native.note}")
    bad, copies, whitest = decode_images(source, arguments.workers)
    if 0 < whitest < 1 << 14:
        print(f"note        16-bit images reach {whitest} of 65535 at most and will be dark: spread their values first")
    print_list("duplicates", [f"{source.describe(i)}: as {source.describe(copies[i])}" for i in sorted(copies)])
    print_list("unreadable", [f"{source.describe(i)}: {bad[i]}" for i in sorted(bad)])
    print_list("not taken", source.others, "by their names no images")
    if source.labels is not None:
        counts = np.bincount(source.labels, minlength=len(source.classes))
        print(f"classes     {len(source.classes)}")
        for name, count in zip(source.classes, counts, strict=True):
            print(f"  {name:<20} {count:>8}  {'#' * round(40 * count / counts.max())}")
    return 0


def write_grid(arguments: Namespace) -> int:
    """Write a contact sheet."""
    source, prepare = open_prepared(arguments)
    if not 1 <= arguments.count <= 1024:
        raise DataError(f"--count: {arguments.count} is not between 1 and 1024")
    images, small = [], 0
    for index in np.unique(np.linspace(0, len(source) - 1, arguments.count).astype(int)).tolist():
        try:
            with source.read_image(index, prepare.resolution, prepare.channels) as picture:
                images.append(prepare(picture))
                small += prepare.is_enlarged(*picture.size)
        except Exception as error:
            print(f"left out: {source.describe(index)}: {first_line(error)}")
    if not images:
        raise DataError(f"none of the images in {arguments.data} can be read")
    picture = make_grid(np.stack(images), 1024)
    try:
        picture.save(arguments.out)
    except (OSError, ValueError) as error:
        raise DataError(f"--out: {arguments.out} cannot be written: {error}") from None
    print(f"{len(images)} images at {prepare.resolution}x{prepare.resolution} in {arguments.out}", end="")
    print(f", {small} of them enlarged" if small else "")
    return 0


def verify(arguments: Namespace) -> int:
    """Hold a cache against its checksums and its images."""
    source, prepare = open_prepared(arguments)
    folder = cache_path(source, prepare)
    if not folder.exists():
        raise DataError(f"there is no cache of {arguments.data} as it is now; python -m datasets build makes one")
    pyramid = Pyramid(folder)
    if wrong := pyramid.find_damage():
        raise DataError(
            f"{len(wrong)} of {len(pyramid)} images in {folder} are damaged, the first number {wrong[0]}; remove it "
            f"with python -m datasets clean {folder.name}, then build it again"
        )
    chosen = np.random.default_rng().permutation(len(pyramid))[: arguments.decode]
    for index in tqdm(chosen, "decoding", unit="image", disable=None, leave=False):
        row = int(pyramid.rows[index])
        with source.read_image(row, prepare.resolution, prepare.channels) as picture:
            if (prepare(picture) != pyramid.read_images(prepare.resolution, [index])[0]).any():
                raise DataError(f"{source.describe(row)} is decoded otherwise now than it is in {folder}")
    print(f"{folder} is whole: {len(pyramid)} images, {len(chosen)} of them decoded again")
    return 0


def clean(arguments: Namespace) -> int:
    """List caches, or remove them."""
    folders = sorted(p for p in (find_cache_folder() / "datasets").glob("*") if p.is_dir())
    names = {p.name for p in folders}
    if unknown := [key for key in arguments.keys if key not in names]:
        raise DataError(f"there is no cache {unknown[0]} in {find_cache_folder() / 'datasets'}")
    chosen: Callable[[Path], bool] = lambda p: (  # noqa: E731
        arguments.all or p.name in arguments.keys or (arguments.unfinished and p.name.startswith("building-"))
    )
    for folder in folders:
        size = format_bytes(sum(getattr(f.stat(), "st_blocks", 0) * 512 or f.stat().st_size for f in folder.iterdir()))
        removed, about = "", describe_cache(folder)
        if chosen(folder):
            removed = "removed" if remove_cache(folder) else "kept: it is being built"
        print(f"{folder.name:<44} {size:>10}  {about}  {removed}".rstrip())
    if not folders:
        print(f"no caches in {find_cache_folder() / 'datasets'}")
    if arguments.all:
        shutil.rmtree(find_cache_folder() / "known", ignore_errors=True)
    return 0


def remove_cache(folder: Path) -> bool:
    """Remove a cache or what there is of it, unless somebody builds it."""
    lock = make_cache_lock(folder.name.removeprefix("building-"), find_cache_folder())
    try:
        take(lock)
        shutil.rmtree(folder)
    except Timeout:
        return False
    finally:
        lock.release()
    return True


def describe_cache(folder: Path) -> str:
    """What a cache was built from, or that it is unfinished or damaged."""
    try:
        meta = Pyramid(folder).meta
    except (DataError, OSError):
        return "unfinished" if folder.name.startswith("building-") else "damaged"
    return f"{escape_for_terminal(meta['source'])}, {meta['count'] - len(meta['bad'])} images"


def measure_image_seconds(source: Source, prepare: Preparation) -> float:
    """Time for one image, by decoding some."""
    tried, start = 0, time.perf_counter()
    for index in np.linspace(0, len(source) - 1, 24).astype(int).tolist():
        try:
            with source.read_image(index, prepare.resolution, prepare.channels) as picture:
                prepare(picture)
            tried += 1
        except Exception:
            continue
    return (time.perf_counter() - start) / max(tried, 1)


def format_classes(source: Source) -> str:
    """Classes and their numbers, as text."""
    return f", {len(source.classes)} classes" if source.classes else ""


def format_channels(prepare: Preparation) -> str:
    """How many channels, and how images become square."""
    return f"{prepare.channels} channel{'s' if prepare.channels > 1 else ''}, {prepare.fit}"


def format_sizes(found: Survey) -> str:
    """As in "640x480 to 4032x3024, median 1024x768 pixels"."""
    small, middle, large = size_range(found)
    return f"{small} pixels, all of them" if small == large else f"{small} to {large}, median {middle} pixels"


def format_sides(found: Survey, fit: str) -> str:
    """How many images are large enough for which resolution, as in "12 for 64, 488 for 128"."""
    sides = np.minimum(found.compute_limiting_sides(fit), 1024)
    counts = Counter((1 << (int(side).bit_length() - 1)) for side in sides)
    return ", ".join(f"{counts[r]} up to {r}" for r in sorted(counts))


def print_list(what: str, lines: list[str], why: str = "") -> None:
    """Print how many there are, why, and each on a line."""
    print(f"{what:<11} {len(lines)}" + (f", {why}" if why and lines else ""))
    for line in lines:
        print(f"  {line}")
