"""Images in an .npz file."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from pggan.untrusted.files import check_unpacked_size, identify_file

from .base import DAMAGED, DataError, Header, Source
from .content import compute_stamp, hash_images
from .images import to_pillow

IMAGE_NAMES = ("images", "x", "x_train", "data", "arr_0")
LABEL_NAMES = ("labels", "y", "y_train", "label", "arr_1")


class Arrays(Source):
    """An .npz of images: uint8 or uint16 [N, H, W], [N, H, W, C] or [N, C, H, W], and class numbers [N] or [N, 1].

    The images are the array named images, x, x_train, data or arr_0, or the only array that can be images; the labels
    the one named labels, y, y_train, label or arr_1. Uncompressed arrays are memory-mapped.

    Raises:
        DataError: the file has no images, or labels are requested and missing.
    """

    is_hashed_by_image = True

    def __init__(self, path: Path, labels: bool = False):
        self.path, self.name, self.classes, self.others = path, path.stem, [], []
        self.labels: np.ndarray | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self.arrays = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
                shapes = {name: read_header(archive, info) for name, info in self.arrays.items()}
        except DAMAGED as error:
            raise DataError(f"{path} is {identify_file(path) or f'not a readable .npz file: {error}'}") from None
        self.key = self.choose(shapes, IMAGE_NAMES, has_image_shape, "images, uint8 or uint16 [N, H, W, C]")
        if labels:
            shape, *_ = shapes[self.key]
            fits = lambda s, dtype: dtype.kind in "iu" and s in ((shape[0],), (shape[0], 1))  # noqa: E731
            self.read_labels(self.choose(shapes, LABEL_NAMES, fits, f"labels, whole numbers [{shape[0]}]"))
        self.pixels: np.ndarray | None = None

    def choose(self, shapes: dict, names: tuple[str, ...], fits, what: str) -> str:
        found = [name for name, header in shapes.items() if fits(*header)]
        named = [name for name in names if name in found]
        if not named and len(found) != 1:
            listed = ", ".join(f"{name} {dtype}{list(shape)}" for name, (shape, dtype) in shapes.items())
            problem = f"several arrays of {what}; name one of them" if found else f"no {what}, named"
            raise DataError(f"{self.path} has {problem} {', '.join(names)}; it contains {listed or 'nothing'}")
        return (named or found)[0]

    def read_labels(self, name: str) -> None:
        values = load_array(self.path, self.arrays[name]).reshape(-1).astype(np.int64)
        present, self.labels = np.unique(values, return_inverse=True)
        self.classes = [str(value) for value in present]

    def images(self) -> np.ndarray:
        """Return the images [N, H, W] or [N, H, W, C], read or mapped once per process."""
        if self.pixels is None:
            images = load_array(self.path, self.arrays[self.key])
            if images.ndim == 4 and images.shape[3] > 4:
                images = images.transpose(0, 2, 3, 1)
            self.pixels = images
        return self.pixels

    def __getstate__(self) -> dict:
        return self.__dict__ | {"pixels": None}

    def __len__(self) -> int:
        return len(self.images())

    def describe(self, index: int) -> str:
        return f"{self.path}, {self.key}[{index}]"

    def stamp(self) -> str:
        return compute_stamp(self.path, [self.path])

    def content_digest(self) -> str:
        return hash_images(self)

    def hash_image(self, index: int, digest: hashlib.blake2b) -> None:
        pixels = np.ascontiguousarray(self.images()[index])
        digest.update(f"{pixels.dtype}{pixels.shape}".encode())
        digest.update(pixels)

    def header(self, index: int) -> Header:
        _, height, width, *channels = self.images().shape
        mode = ("L", "LA", "RGB", "RGBA")[channels[0] - 1] if channels else "L"
        return Header(width, height, mode, "A" in mode)

    def read_image(
        self, index: int, resolution: int = 0, channels: int = 0, digest: hashlib.blake2b | None = None
    ) -> Image.Image:
        pixels = self.images()[index]
        if digest is not None:
            self.hash_image(index, digest)
        return to_pillow(pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8))


def has_image_shape(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Return whether an array has the shape and dtype of images."""
    if len(shape) not in (3, 4) or dtype not in (np.uint8, np.uint16) or min(shape) < 1:
        return False
    return len(shape) == 3 or shape[3] <= 4 or shape[1] <= 4


def read_header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Return an array's shape and dtype, after checking them against the size that the archive declares."""
    with archive.open(info) as file:
        shape, order, dtype = read_npy_header(file)
        if order and len(shape) > 2:
            raise DataError("its arrays are column-major; save them with np.ascontiguousarray")
        if dtype.hasobject or int(np.prod(shape)) * dtype.itemsize + file.tell() != info.file_size:
            return (), np.dtype(object)
        return shape, dtype


def read_npy_header(file) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether column-major, and dtype of an .npy file without reading its data."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def load_array(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of the archive, memory-mapped if it is stored uncompressed.

    Raises:
        DataError: the file is damaged, or unpacks to a size that no images have.
    """
    try:
        check_unpacked_size(info)
        return unpack_array(path, info) if info.compress_type != zipfile.ZIP_STORED else map_array(path, info)
    except DAMAGED as error:
        raise DataError(f"{path} is damaged: {error}") from None


def unpack_array(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array of the archive, in memory."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def map_array(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    """Return an array that the archive stores uncompressed, memory-mapped."""
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        shape, _, dtype = read_npy_header(file)
        into = file.tell()
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)  # lengths of the member's name and extra field, then both, then the data
        lengths = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    offset = info.header_offset + 30 + lengths + into
    return np.memmap(path, dtype, "r", offset, shape)
