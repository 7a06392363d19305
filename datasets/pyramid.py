"""The pyramid cache: every image at every resolution, decoded once, in one memory-mapped uint8 .npy file per level."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from pggan.console import escape_for_terminal

from .base import DAMAGED, DataError, Source
from .build import MACHINE_ERRORS, build_cache, check_bad, describe_small_images
from .cache_files import find_cache_folder
from .content import find_content, find_or_compute_content, is_probably_known, read_stamp
from .images import Preparation
from .levels import LAYOUT_VERSION, compute_checksums, level_file_name, level_resolutions, pyramid_levels

# Errors of file systems without locks; checkpoints/lock.py has the same list and its sources
NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EIO, errno.EINVAL}
warnings.filterwarnings("ignore", "flock not supported", module="filelock")  # its fallback, a soft lock, is sufficient
VERIFY_BYTES = 1 << 24  # bytes of the largest level per batch in `Pyramid.find_damage`; our choice, bounds its memory


class Pyramid:
    """A complete cache, memory-mapped.

    Attributes:
        folder: path of the cache.
        key: the folder's name, which depends on the images and their preparation.
        resolution: of the largest level.
        channels: of the images.
        levels: by resolution, uint8 [count, channels, r, r]; zeros for unreadable images.
        sums: checksums, uint64 [count]; 0 for unreadable images.
        rows: rows of the readable images in `levels`, [len].
        classes: class names; [] without labels.
        labels: class indices [len], or None.
        bad: [name, reason] of the unreadable images.
        meta: content of meta.json.

    Raises:
        DataError: the cache is damaged.
        OSError: it cannot be opened or mapped.
    """

    def __init__(self, folder: Path):
        self.folder, self.key = folder, folder.name
        try:
            self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
            self.resolution, self.channels = self.meta["resolution"], self.meta["channels"]
            self.classes, self.bad = self.meta["classes"], self.meta["bad"]
            self.levels = {
                r: np.load(folder / level_file_name(r), mmap_mode="r") for r in level_resolutions(self.resolution)
            }
            self.sums = np.load(folder / "sums.npy")
            self.rows = np.flatnonzero(self.sums)  # the checksum 0 marks unreadable images
            self.labels = np.load(folder / "labels.npy") if self.classes else None
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # a failing disk, a limit of open files, or a file system without memory mapping
            remove = f"python -m pggan.datasets clean {folder.name}"
            raise DataError(f"the cache {folder} is damaged ({error}); remove it with {remove}, then retry") from None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_counts(self) -> list[int]:
        """The number of images in each class; [] without labels."""
        return [] if self.labels is None else np.bincount(self.labels, minlength=len(self.classes)).tolist()

    def compute_digest(self) -> str:
        """Return a digest of the 4x4 level and the labels, in hexadecimal; the same for a copy of the dataset."""
        # the 4x4 level tells datasets apart and is small; 12 bytes rule out collisions
        digest = hashlib.blake2b(self.levels[4][self.rows].tobytes(), digest_size=12)
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()

    def read_images(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return images of one level, uint8 [len(indices), channels, resolution, resolution]."""
        return self.levels[resolution][self.rows[np.asarray(indices)]]

    def find_damage(self) -> list[int]:
        """Return the indices of images with a wrong checksum, or with levels that do not match the largest level."""
        wrong = []
        step = max(VERIFY_BYTES // (self.channels * self.resolution**2), 1)
        for start in tqdm(range(0, len(self), step), "verifying", unit="batch", disable=None, leave=False):
            rows = self.rows[start : start + step]
            found = [self.levels[r][rows] for r in reversed(self.levels)]
            bad = compute_checksums(found) != self.sums[rows]
            for level, expected in zip(found, pyramid_levels(found[0]), strict=True):
                bad |= (level != expected).any(axis=(1, 2, 3))
            wrong += (start + np.flatnonzero(bad)).tolist()
        return wrong

    def describe_problems(self) -> str:
        """Return a warning about skipped, enlarged and duplicate images, or ""."""
        skipped, enlarged, copies = len(self.bad), self.meta["enlarged"], self.meta["duplicates"]
        size = f"{self.resolution}x{self.resolution}"
        parts = [
            f"{skipped} cannot be read and are skipped" if skipped else "",
            f"{enlarged} are smaller than {size} and were enlarged" if enlarged else "",
            f"{copies} are copies of others" if copies else "",
        ]
        text = "; ".join(part for part in parts if part)
        count = self.meta["count"]
        return text and f"of {count} images in {self.meta['source']}, {text} (listed in {self.folder / 'report.txt'})"


def open_pyramid(
    source: Source,
    resolution: int,
    channels: int,
    *,
    fit: str = "center-crop",
    background: str = "white",
    allow_upscale: bool = False,
    max_bad: float = 0.01,
    workers: int | None = None,
    cache: Path | None = None,
) -> Pyramid:
    """Open the cache of a dataset; build it first if it does not exist, or resume an interrupted build.

    If another process is building it, wait for that process. Prints a warning about skipped, enlarged and duplicate
    images to standard error.

    Args:
        resolution: of the largest level, a power of two from 4 to 1024.
        channels, fit, background: see `Preparation`.
        allow_upscale: whether to enlarge images that are smaller than the resolution.
        max_bad: largest fraction of images that may be unreadable, and are then skipped.
        workers: processes that decode (default: one per core).
        cache: cache folder (default: `find_cache_folder()`).

    Raises:
        DataError: too many images are unreadable, or images are too small; the disk is full, or the cache folder not
            writable; or the images changed during the build.
    """
    prepare, cache = Preparation(resolution, channels, fit, background), cache or find_cache_folder()
    with explain_cache_errors(cache):
        folder = find_cache(source, prepare, cache)
        if folder is None and (not source.is_hashed_by_image or is_probably_known(source, cache)):
            find_or_compute_content(source, cache)  # of a copy, for example, whose images are in a cache already
            folder = find_cache(source, prepare, cache)
        if folder is None or not folder.exists():
            building = get_building_folder(source, prepare, cache)
            with hold_build_lock(building, cache):
                folder = find_cache(source, prepare, cache)
                if folder is None or not folder.exists():  # another process may have built it while this one waited
                    content = find_content(source, cache)
                    content = build_cache(source, content, prepare, building, allow_upscale, max_bad, workers)
                    folder = move_to_final_name(building, get_cache_folder(source, prepare, cache, content))
        pyramid = Pyramid(folder)
    # A cache may have been built with looser limits than this call's.
    check_bad(pyramid.bad, pyramid.meta["count"], max_bad, folder / "report.txt")
    if pyramid.meta["enlarged"] and not allow_upscale:
        raise DataError(describe_small_images(source, prepare))
    if remarks := pyramid.describe_problems():
        tqdm.write(remarks, file=sys.stderr)
    if emptied := find_emptied_classes(source, pyramid):
        tqdm.write(
            f"warning: no readable images in {', '.join(emptied)}; images of such classes are never generated",
            file=sys.stderr,
        )
    return pyramid


def find_emptied_classes(source: Source, pyramid: Pyramid) -> list[str]:
    """Return the names of classes none of whose images can be read."""
    if source.labels is None:
        return []
    before = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    counts = zip(source.classes, before, pyramid.class_counts, strict=True)
    return [escape_for_terminal(name) for name, images, left in counts if images and not left]


@contextmanager
def explain_cache_errors(cache: Path) -> Iterator[None]:
    """Turn the operating system's errors into a DataError that tells limits of the machine from a bad cache folder."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in MACHINE_ERRORS:
            raise DataError(
                f"the image cache could not be built or opened: {reason}; raise this machine's limits for open files "
                "(ulimit -n), processes (ulimit -u) or memory"
            ) from None
        raise DataError(
            f"the image cache {cache} cannot be read or written ({reason}); set PGGAN_CACHE to a writable folder"
        ) from None


def compute_cache_key(source: Source, prepare: Preparation, images: str) -> str:
    """Return a folder name for a cache: resolution, channels and a digest of images, labels and preparation."""
    digest = hashlib.blake2b(repr((images, *astuple(prepare), source.classes, LAYOUT_VERSION)).encode(), digest_size=12)
    digest.update(b"" if source.labels is None else source.labels.tobytes())
    return f"{prepare.resolution:04d}x{prepare.channels}-{digest.hexdigest()}"


def get_cache_folder(source: Source, prepare: Preparation, cache: Path, content: str) -> Path:
    """Return the folder of a complete cache, named by the images' content: the same for a copy of the images."""
    return cache / "datasets" / compute_cache_key(source, prepare, content)


def get_building_folder(source: Source, prepare: Preparation, cache: Path) -> Path:
    """Return the folder in which a cache is built, named by the files' stamp: their content may not be known yet."""
    return cache / "datasets" / f"building-{compute_cache_key(source, prepare, read_stamp(source))}"


def find_cache(source: Source, prepare: Preparation, cache: Path) -> Path | None:
    """Return the folder of a source's cache, built or not; None if the images' content is unknown."""
    content = find_content(source, cache)
    return get_cache_folder(source, prepare, cache, content) if content else None


def move_to_final_name(building: Path, folder: Path) -> Path:
    """Rename a complete cache, and return its final path; remove it instead if there is one of equal images."""
    try:
        building.rename(folder)  # atomic: a folder with the final name is always complete
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(building)
    return folder


@contextmanager
def hold_build_lock(building: Path, cache: Path) -> Iterator[None]:
    """Hold the build lock of one cache, waiting for it if necessary; the system releases it if the process dies."""
    lock = make_cache_lock(building.name, cache)
    try:
        try_lock(lock)
    except Timeout:
        tqdm.write("another process is building the image cache of this dataset; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def try_lock(lock: FileLock) -> None:
    """Acquire a lock without waiting; if the file system has no locks, print a warning and continue without.

    Raises:
        Timeout: another process holds the lock.
        OSError: its file cannot be written.
    """
    try:
        lock.acquire(timeout=0)
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        cache = Path(lock.lock_file).parent.parent
        tqdm.write(
            f"warning: the file system of the image cache {cache} has no locks: use one process at a time, or set "
            "PGGAN_CACHE to a folder on a local disk",
            file=sys.stderr,
        )


def make_cache_lock(key: str, cache: Path) -> FileLock:
    """Return the lock that guards the building of one cache, not acquired. Raises OSError."""
    (cache / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(cache / "locks" / f"{key}.lock")
