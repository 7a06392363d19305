"""Tell datasets apart: stamps of their files, digests of their content, and the index of those seen before.

The index is the folder known/ in the cache folder. It has the content digest of a dataset by its stamp (`STAMP`), and
an empty file for each sketch of a dataset whose content was hashed (`sketch-SKETCH`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
from tqdm import tqdm

from .base import DataError, Source
from .cache_files import write_atomically
from .parallel import count_cores, map_parallel

DIGEST_BYTES = 16  # our choice: rules out collisions
HASH_SPAN = 64  # images per task of `hash_images`, our choice: fewer messages between the processes than single images
SKETCHED_IMAGES = 32  # our choice: read in a moment on any disk, and enough to tell datasets apart

_stamps: WeakKeyDictionary[Source, str] = WeakKeyDictionary()


def new_digest() -> hashlib.blake2b:
    """Return a hash object for the content of images."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def combine_digests(digests: Iterable[bytes]) -> str:
    """Return one digest of several, in hexadecimal."""
    return hashlib.blake2b(b"".join(digests), digest_size=DIGEST_BYTES).hexdigest()


def compute_stamp(folder: Path, files: Iterable[str | Path]) -> str:
    """Return a digest of the files' paths, sizes and times, without reading them, in hexadecimal.

    It changes when a file is written, moved or touched. mtime can be set back, as `cp -p` does; ctime cannot.
    """
    digest = new_digest()
    digest.update(str(folder.resolve()).encode("utf-8", "surrogateescape"))
    for path in files:
        try:
            stat = os.stat(path)
            version = f"{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        except OSError:  # a broken link: an image that cannot be read, like any other
            version = "missing"
        digest.update(f"{path}\0{version}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextmanager
def explain_read_errors(source: Source) -> Iterator[None]:
    """Turn the operating system's errors into a DataError with the dataset's name."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{source.name} cannot be read: {error.strerror or error}") from None


def read_stamp(source: Source, again: bool = False) -> str:
    """Return `source.stamp()` as it was when first asked for, or the present one. Raises DataError.

    A million files take seconds to stat, and minutes on a network disk; a source is a snapshot, as its list of files
    is.
    """
    if again or source not in _stamps:
        with explain_read_errors(source):
            _stamps[source] = source.stamp()
    return _stamps[source]


def update_with_file(digest: hashlib.blake2b, path: str | Path) -> None:
    """Add a file's content to a digest in bounded memory. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)


def hash_file(path: str | Path) -> bytes:
    """Return the digest of a file's content. Raises OSError."""
    digest = new_digest()
    update_with_file(digest, path)
    return digest.digest()


class ImageHasher:
    """A function that hashes a span (start, stop) of images; it can be pickled for workers."""

    def __init__(self, source: Source):
        self.source = source

    def __call__(self, span: tuple[int, int]) -> tuple[int, list[bytes]]:
        return span[0], [hash_image(self.source, index) for index in range(*span)]


def hash_image(source: Source, index: int) -> bytes:
    """Return the digest of an image as it is stored; that of nothing if it cannot be read."""
    digest = new_digest()
    with suppress(OSError, ValueError):
        source.hash_image(index, digest)
    return digest.digest()


def hash_images(source: Source) -> str:
    """Return the digest of all images as they are stored, read in parallel with a progress bar."""
    count = len(source)
    found: dict[int, bytes] = {}
    spans = [(start, min(start + HASH_SPAN, count)) for start in range(0, count, HASH_SPAN)]
    with tqdm(total=count, desc=f"hashing {source.name}", unit="image", disable=None, leave=False, delay=1) as bar:
        for start, digests in map_parallel(ImageHasher(source), spans, min(count_cores(), len(spans))):
            found[start] = b"".join(digests)
            bar.update(len(digests))
    return combine_digests(found[start] for start, _ in spans)


def get_index_file(cache: Path, name: str) -> Path:
    """Return the path of a file in the index of datasets seen before."""
    return cache / "known" / name


def choose_sketched(count: int) -> list[int]:
    """Return the indices of the images in a sketch."""
    return np.unique(np.linspace(0, count - 1, SKETCHED_IMAGES).astype(int)).tolist()


def format_sketch(count: int, digests: Iterable[bytes]) -> str:
    """Return the name of a sketch's file: a digest of the number of images and of a few of them."""
    return f"sketch-{combine_digests([str(count).encode(), *digests])}"


def find_content(source: Source, cache: Path) -> str:
    """Return the content digest of a dataset whose files have not changed since it was computed, or ""."""
    file = get_index_file(cache, read_stamp(source))
    return file.read_text() if file.exists() else ""


def find_or_compute_content(source: Source, cache: Path) -> str:
    """Return the content digest, computed if it is unknown.

    Raises:
        DataError: the files cannot be read.
    """
    if not (content := find_content(source, cache)):
        with explain_read_errors(source):
            content = source.content_digest()
        store_content(read_stamp(source), content, cache)
    return content


def is_probably_known(source: Source, cache: Path) -> bool:
    """Return whether a dataset with as many images, and equal ones among a few of them, was hashed before."""
    count = len(source)
    sketch = format_sketch(count, (hash_image(source, i) for i in choose_sketched(count)))
    return get_index_file(cache, sketch).exists()


def store_content(stamp: str, content: str, cache: Path, digests: np.ndarray | None = None) -> None:
    """Record the content digest of a dataset, and its sketch if the images' digests [N, 16] are passed."""
    file = get_index_file(cache, stamp)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, content)
    if digests is not None:
        chosen = choose_sketched(len(digests))
        get_index_file(cache, format_sketch(len(digests), (digests[i].tobytes() for i in chosen))).touch()
