"""The levels of an image pyramid: how they are computed, their checksums, their files."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

LAYOUT_VERSION = 6  # version of the cache's files and pixels; caches of other versions are rebuilt


def level_resolutions(largest: int) -> list[int]:
    """Return every power of two from 4 to `largest`."""
    return [1 << level for level in range(2, largest.bit_length())]


def level_file_name(resolution: int) -> str:
    """Return the file name of a level."""
    return f"{resolution:04d}.npy"


def pyramid_levels(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yield uint8 [N, C, r, r] from the images' own size down to 4x4: means of 2^k x 2^k pixels, rounded half to even.

    This equals the official dataset tool's output, which averages 2x2 boxes in float32 (exactly, for these values) and
    rounds each level separately. Integer sums give the same result four times as fast.
    """
    yield images
    total, bits = images, 0
    while total.shape[-1] > 4:
        total, bits = sum_boxes(total, bits), bits + 2
        odd = (total >> bits) & 1
        yield ((total + odd + ((1 << (bits - 1)) - 1)) >> bits).astype(np.uint8)


def sum_boxes(total: np.ndarray, bits: int) -> np.ndarray:
    """Return the sums of 2x2 boxes of values that are sums of 2^bits pixels, in the smallest sufficient integer type.

    Two neighbors in a row are read as one integer of twice the size: faster than strided access to every second value.
    """
    half = 8 * total.itemsize
    pairs = np.ascontiguousarray(total).view(f"<u{2 * total.itemsize}")
    rows: np.ndarray = (pairs & ((1 << half) - 1)) + (pairs >> half)
    if bits:  # 16 bits hold sums of at most 4^4 = 2^8 pixels of 255
        rows = rows.astype(np.uint16 if bits + 2 <= 8 else np.uint32, copy=False)
    return rows[:, :, 0::2] + rows[:, :, 1::2]


def compute_checksums(levels: Sequence[np.ndarray]) -> np.ndarray:
    """Return a checksum of each image over all its levels, uint64 [N]; never 0, which marks unwritten images."""
    found = np.empty(len(levels[0]), np.uint64)
    for i in range(len(found)):
        digest = hashlib.sha1(usedforsecurity=False)
        for level in levels:
            digest.update(np.ascontiguousarray(level[i]))
        found[i] = int.from_bytes(digest.digest()[:8], "little") or 1
    return found


def reserve_space(file: int, size: int) -> None:
    """Reserve disk space for an open file, if Linux's fallocate(2) and the file system can. Raises OSError.

    os.posix_fallocate would do, but glibc emulates it where the file system lacks it (ext3, NFS before 4.2): it writes
    a byte into each block, and so the whole file over the network.
    """
    if sys.platform != "linux":
        return
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64
    if fallocate(file, 0, 0, size):
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number))


class RowFile:
    """An .npy file whose rows any process can write in any order; its disk space is reserved up front if possible.

    Rows are written, not memory-mapped: on a full disk a write raises an error, while a memory map kills the process.
    """

    def __init__(self, path: Path, dtype: type, shape: tuple[int, ...]):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        with open(path, "r+b" if path.exists() else "w+b") as file:
            np.lib.format.write_array_header_1_0(file, header)
            self.offset = file.tell()
            size = self.offset + self.row_bytes * shape[0]
            if os.fstat(file.fileno()).st_size < size:
                reserve_space(file.fileno(), size)
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
