"""The levels of a pyramid: their arithmetic, their checksums, their files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

LAYOUT = 2  # of a cache folder


def resolutions(largest: int) -> list[int]:
    return [1 << level for level in range(2, largest.bit_length())]


def level_file(resolution: int) -> str:
    return f"{resolution:04d}.npy"


def pyramid_levels(images: np.ndarray) -> Iterator[np.ndarray]:
    """uint8 [N, C, r, r] from the images' own size down to 4, averaging 2x2 boxes of unrounded values.

    The arithmetic of the official dataset tool: float32 all the way down, each level rounded to even by itself.
    """
    exact = images
    yield images
    while exact.shape[-1] > 4:
        rows = np.add(exact[:, :, 0::2], exact[:, :, 1::2], dtype=np.float32)  # exact: at most 24 bits down to 4x4
        exact = (rows[..., 0::2] + rows[..., 1::2]) * np.float32(0.25)
        yield np.rint(exact).astype(np.uint8)


def sums(levels: Sequence[np.ndarray]) -> np.ndarray:
    """A checksum of each image over all its levels, uint64 [N], never 0."""
    found = np.empty(len(levels[0]), np.uint64)
    for i in range(len(found)):
        digest = hashlib.blake2b(digest_size=8)
        for level in levels:
            digest.update(np.ascontiguousarray(level[i]))
        found[i] = int.from_bytes(digest.digest(), "little") or 1
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
                os.posix_fallocate(file.fileno(), 0, size)
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
