"""The levels of a pyramid: their arithmetic, their checksums, their files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

LAYOUT = 5  # of a cache folder


def resolutions(largest: int) -> list[int]:
    """Every power of two from 4 to the largest."""
    return [1 << level for level in range(2, largest.bit_length())]


def level_file(resolution: int) -> str:
    """The file of a level."""
    return f"{resolution:04d}.npy"


def pyramid_levels(images: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [N, C, r, r] from the images' own size down to 4: means of 2^k x 2^k pixels, rounded half to even.

    What the official dataset tool writes: it averages 2x2 boxes of unrounded float32 values and rounds each level by
    itself, and those floats are exact. Here the same in whole numbers, sums of pixels, which is four times as fast.
    """
    yield images
    total, bits = images, 0
    while total.shape[-1] > 4:
        total, bits = in_boxes(total, bits), bits + 2
        odd = (total >> bits) & 1
        yield ((total + odd + ((1 << (bits - 1)) - 1)) >> bits).astype(np.uint8)


def in_boxes(total: np.ndarray, bits: int) -> np.ndarray:
    """Sums of 2x2 boxes of sums of 2^bits pixels each, in as few bytes as hold them.

    Neighbours in a row are read as one number of twice the size, which is quicker than every second one by itself.
    """
    half = 8 * total.itemsize
    pairs = np.ascontiguousarray(total).view(f"<u{2 * total.itemsize}")
    rows: np.ndarray = (pairs & ((1 << half) - 1)) + (pairs >> half)
    if bits:  # sums of 4^4 pixels of 255 are the most that 16 bits hold
        rows = rows.astype(np.uint16 if bits + 2 <= 8 else np.uint32, copy=False)
    return rows[:, :, 0::2] + rows[:, :, 1::2]


def sums(levels: Sequence[np.ndarray]) -> np.ndarray:
    """A checksum of each image over all its levels, uint64 [N], never 0."""
    found = np.empty(len(levels[0]), np.uint64)
    for i in range(len(found)):
        digest = hashlib.sha1(usedforsecurity=False)
        for level in levels:
            digest.update(np.ascontiguousarray(level[i]))
        found[i] = int.from_bytes(digest.digest()[:8], "little") or 1
    return found


class RowFile:
    """An .npy file of rows, written in any order by any process, its room on the disk taken at once.

    Written, not mapped: on a full disk a write fails with an error, and a map ends the process.
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        with open(path, "r+b" if path.exists() else "w+b") as file:
            np.lib.format.write_array_header_1_0(file, header)
            self.offset = file.tell()
            size = self.offset + self.row_bytes * shape[0]
            if hasattr(os, "posix_fallocate") and os.fstat(file.fileno()).st_size < size:
                try:
                    os.posix_fallocate(file.fileno(), 0, size)
                except OSError as error:  # musl's libc does not make up for file systems that cannot
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                        raise
            file.truncate(size)

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    def write(self, start: int, rows: np.ndarray) -> None:
        with open(self.path, "r+b", buffering=0) as file:
            file.seek(self.offset + start * self.row_bytes)
            data = memoryview(np.ascontiguousarray(rows)).cast("B")
            while data:
                data = data[file.write(data) :]

    def read(self, start: int, stop: int) -> np.ndarray:
        count = (stop - start) * int(np.prod(self.shape[1:], dtype=np.int64))
        rows = np.fromfile(self.path, self.dtype, count, offset=self.offset + start * self.row_bytes)
        return rows.reshape(-1, *self.shape[1:])

    def sync(self) -> None:
        with open(self.path, "rb") as file:
            os.fsync(file.fileno())
