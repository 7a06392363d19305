"""The pyramid cache: every image at every resolution, decoded once, memory-mapped uint8, one .npy file a level."""

from __future__ import annotations

import errno
import hashlib
import json
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

from .base import DAMAGED, DataError, Source, escape_for_terminal
from .build import OF_THE_MACHINE, build_cache, check_bad, describe_small_images, read_stamp, reading
from .cache_files import find_cache_folder, write_atomically
from .images import Preparation
from .levels import LAYOUT_VERSION, compute_checksums, level_file_name, level_resolutions, pyramid_levels

NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK, errno.EIO, errno.EINVAL}  # as checkpoints.lock
warnings.filterwarnings("ignore", "flock not supported", module="filelock")  # it locks by another way, which serves


class Pyramid:
    """A built cache.

    Attributes:
        key: changes when the images or their preparation do. folder: where it is.
        resolution, channels: of the largest level. levels: by resolution, uint8 [count, channels, r, r], with a row of
            zeros for each image left out. rows: the others' places in it.
        classes: class names. labels: class indices [len] or None. bad: [name, reason] of the images left out.
        meta: what else was noted when it was built.
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
            self.rows = np.flatnonzero(self.sums)
            self.labels = np.load(folder / "labels.npy") if self.classes else None
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise  # the disk, a limit of open files, or a file system that maps none into memory
            remove = f"python -m datasets clean {folder.name}"
            raise DataError(f"the cache {folder} is damaged ({error}); remove it: {remove}") from None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_counts(self) -> list[int]:
        """Images of each class, [] without labels."""
        return [] if self.labels is None else np.bincount(self.labels, minlength=len(self.classes)).tolist()

    def compute_digest(self) -> str:
        """Stands for the images themselves, by their 4x4 versions and labels: the same for a copy of them."""
        digest = hashlib.blake2b(self.levels[4][self.rows].tobytes(), digest_size=12)
        digest.update(b"" if self.labels is None else self.labels.tobytes())
        return digest.hexdigest()

    def read_images(self, resolution: int, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """uint8 [len(indices), channels, resolution, resolution]."""
        return self.levels[resolution][self.rows[np.asarray(indices)]]

    def find_damage(self) -> list[int]:
        """Indices of images that are not as they were written, or whose levels do not follow from the largest one."""
        wrong = []
        step = max((1 << 24) // (self.channels * self.resolution**2), 1)
        for start in tqdm(range(0, len(self), step), "verifying", unit="batch", disable=None, leave=False):
            rows = self.rows[start : start + step]
            found = [self.levels[r][rows] for r in reversed(self.levels)]
            bad = compute_checksums(found) != self.sums[rows]
            for level, expected in zip(found, pyramid_levels(found[0]), strict=True):
                bad |= (level != expected).any(axis=(1, 2, 3))
            wrong += (start + np.flatnonzero(bad)).tolist()
        return wrong

    def describe_problems(self) -> str:
        """What should be said whenever these images are used, or ""."""
        left_out, enlarged, copies = len(self.bad), self.meta["enlarged"], self.meta["duplicates"]
        size = f"{self.resolution}x{self.resolution}"
        parts = [
            f"{left_out} cannot be read and are left out" if left_out else "",
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
    """Open the cache of these images, building it first where it is missing, or going on with its building.

    It is built beside its final place and moved there whole. Where another process builds it, wait for that one.

    Args:
        resolution: of the largest level, a power of two from 4 to 1024. channels, fit, background: see `Preparation`.
        allow_upscale: enlarge images that are smaller. max_bad: largest share of images that may be left out.
        workers: processes that decode (default: one for each core). cache: the folder of caches.

    Raises:
        DataError: too many images that cannot be read, or too small; no room on the disk, or a cache not to be written;
            images that change meanwhile.
    """
    prepare, cache = Preparation(resolution, channels, fit, background), cache or find_cache_folder()
    with using_cache(cache):
        stamp = read_stamp(source)
        folder = cache / "datasets" / compute_cache_key(source, prepare, cache, stamp)
        if not folder.exists():
            with hold_build_lock(folder, cache):
                if not folder.exists():
                    build_cache(source, stamp, prepare, folder, allow_upscale, max_bad, workers)
        pyramid = Pyramid(folder)
    check_bad(pyramid.bad, pyramid.meta["count"], max_bad, folder / "report.txt")
    if pyramid.meta["enlarged"] and not allow_upscale:
        raise DataError(describe_small_images(source, prepare))
    if remarks := pyramid.describe_problems():
        tqdm.write(remarks, file=sys.stderr)
    if emptied := emptied_classes(source, pyramid):
        tqdm.write(f"no readable images in {', '.join(emptied)}: never drawn", file=sys.stderr)
    return pyramid


def emptied_classes(source: Source, pyramid: Pyramid) -> list[str]:
    """Return names of classes of which no image can be read."""
    if source.labels is None:
        return []
    before = np.bincount(source.labels, minlength=len(source.classes)).tolist()
    counts = zip(source.classes, before, pyramid.class_counts, strict=True)
    return [escape_for_terminal(name) for name, images, left in counts if images and not left]


@contextmanager
def using_cache(cache: Path) -> Iterator[None]:
    """Raise the operating system's errors as DataError, naming the folder of caches where it is at fault."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in OF_THE_MACHINE:
            raise DataError(
                f"the image cache could not be built or opened: {reason}; raise this machine's limits of open files "
                "(ulimit -n), processes or memory"
            ) from None
        raise DataError(
            f"the image cache {cache} cannot be written or read ({reason}); set PGGAN_CACHE to a folder that can"
        ) from None


def compute_cache_key(source: Source, prepare: Preparation, cache: Path, stamp: str) -> str:
    """By what the images hold, not by where they are: files that nobody touched are not even read again."""
    index_file = cache / "known" / stamp
    content = index_file.read_text() if index_file.exists() else ""
    if not content:
        with reading(source):
            content = source.content_digest()
        index_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(index_file, content)
    digest = hashlib.blake2b(
        repr((content, *astuple(prepare), source.classes, LAYOUT_VERSION)).encode(), digest_size=12
    )
    digest.update(b"" if source.labels is None else source.labels.tobytes())
    return f"{prepare.resolution:04d}x{prepare.channels}-{digest.hexdigest()}"


@contextmanager
def hold_build_lock(folder: Path, cache: Path) -> Iterator[None]:
    """Hold the lock of one cache; it falls when its process ends, however that happens."""
    lock = make_cache_lock(folder.name, cache)
    try:
        take(lock)
    except Timeout:
        tqdm.write("another process is building the cache of these images; waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def take(lock: FileLock) -> None:
    """Take a lock without waiting for it; where the file system has no locks, warn and do without.

    Raises:
        Timeout: another process holds it. OSError: its file cannot be written.
    """
    try:
        lock.acquire(timeout=0)
    except (NotImplementedError, OSError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in NO_LOCKS:
            raise
        cache = Path(lock.lock_file).parent.parent
        warning = f"warning: the file system of the image cache {cache} has no locks: use one process at a time"
        tqdm.write(warning, file=sys.stderr)


def make_cache_lock(key: str, cache: Path) -> FileLock:
    """The lock held while a cache is built."""
    (cache / "locks").mkdir(parents=True, exist_ok=True)
    return FileLock(cache / "locks" / f"{key}.lock")
