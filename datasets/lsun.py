"""LSUN's LMDB databases (Yu et al. 2015, arXiv 1506.03365), one for each category."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .base import DataError, Header, Source
from .content import compute_stamp, hash_images
from .images import open_image, read_header

_opening = threading.Lock()  # headers are read in several threads


class LSUN(Source):
    """The images of an LMDB database, such as bedroom_train_lmdb: the values, in the order of their keys.

    torchvision reads them too, but leaves a pickle of the keys in the current folder, and uses it for a database that
    has changed since.

    Args:
        name: for messages. folder: the database, with the file data.mdb.

    Raises:
        DataError: the package lmdb is missing, the database is missing or damaged, or labels are requested.
    """

    is_hashed_by_image = True

    def __init__(self, name: str, folder: Path, labels: bool = False):
        self.name, self.folder, self.classes, self.labels, self.others = name, folder, [], None, []
        if labels:
            raise DataError(f"{name} has no classes; omit --labels")
        try:
            import lmdb
        except ImportError:
            raise DataError(f"{name} needs lmdb: pip install lmdb") from None
        if not (folder / "data.mdb").is_file():
            raise DataError(
                f"{name} is not in {folder.parent}: {folder.name}/data.mdb is missing; download the category from "
                f"LSUN (github.com/fyu/lsun) and unpack it there"
            )
        try:
            self.opened: tuple[int, Any] = os.getpid(), self.open_database()
            with self.opened[1].begin() as transaction:
                # Fixed-length rows: millions of bytes objects would take twice as much memory.
                self.keys = np.array(list(transaction.cursor().iternext(values=False)))
        except lmdb.Error as error:
            raise DataError(f"{folder} is damaged: {error}; download it again") from None
        if not len(self.keys):
            raise DataError(f"{folder} contains no images; download it again")

    def open_database(self) -> Any:
        """Return the database, opened for reading without a lock file."""
        import lmdb

        return lmdb.open(str(self.folder), readonly=True, lock=False, readahead=False, meminit=False)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"opened": (0, None)}  # each process opens its own: LMDB forbids sharing across fork

    def __len__(self) -> int:
        return len(self.keys)

    def describe(self, index: int) -> str:
        return f"{self.name} image {index}"

    def stamp(self) -> str:
        return compute_stamp(self.folder, [self.folder / "data.mdb"])

    def content_digest(self) -> str:
        return hash_images(self)

    def read(self, index: int) -> bytes:
        """Return an image as it is stored. Raises ValueError if it is missing."""
        with _opening:
            if self.opened[0] != os.getpid():
                self.opened = 0, None  # forget the parent's first: py-lmdb refuses to open a database twice
                self.opened = os.getpid(), self.open_database()
        with self.opened[1].begin() as transaction:
            data: bytes | None = transaction.get(bytes(self.keys[index]))
        if data is None:
            raise ValueError("missing from the database")
        return data

    def hash_image(self, index: int, digest: hashlib.blake2b) -> None:
        digest.update(self.read(index))

    def header(self, index: int) -> Header:
        with self.read_image(index) as picture:
            return read_header(picture)

    def read_image(
        self, index: int, resolution: int = 0, channels: int = 0, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        data = self.read(index)
        if digest is not None:
            digest.update(data)
        return open_image(io.BytesIO(data), resolution)
