"""Images to judge, read in place from a folder, a zip or an .npz, as uint8 RGB batches."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import MetricError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
BATCH = 64
SEED = 2020


class ImageSet:
    """Images in a fixed order.

    Args:
        path: a folder, searched through its subfolders; a .zip of images; an .npz with one uint8 array
            [N, H, W], [N, H, W, 1 | 3 | 4] (others beside it, such as labels, are left alone).
        count: so many of them, drawn by a fixed seed; None for all.

    Raises:
        MetricError: nothing there that can be read.
    """

    def __init__(self, path: str | os.PathLike, count: int | None = None):
        self.path = Path(path)
        if not self.path.exists():
            raise MetricError(f"{path} does not exist")
        if self.path.is_dir():
            self.images: FolderImages | ZipImages | ArrayImages = FolderImages(self.path)
        elif self.path.suffix.lower() == ".npz":
            self.images = ArrayImages(self.path)
        elif zipfile.is_zipfile(self.path):
            self.images = ZipImages(self.path)
        else:
            raise MetricError(f"{path} is not a folder of images, a zip or an .npz")
        total = len(self.images)
        if not total:
            raise MetricError(f"{path} holds no images ({', '.join(sorted(SUFFIXES))})")
        if count is not None and count > total:
            raise MetricError(f"{path} holds {total} images, and {count} were asked for")
        self.indices = np.arange(total)
        if count is not None:
            self.indices = np.sort(np.random.RandomState(SEED).choice(total, count, replace=False))

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[Tensor]:
        """uint8 [N, 3, H, W]. Raises MetricError naming an image that cannot be read or has another size."""
        size, first = None, None
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(self.indices), BATCH):
                images = self.images.read(self.indices[start : start + BATCH], threads)
                for index, image in zip(self.indices[start:], images, strict=False):
                    size, first = (image.shape, index) if size is None else (size, first)
                    if image.shape != size:
                        raise MetricError(
                            f"{self.path} holds images of different sizes: {self.images.name(first)} is "
                            f"{size[1]}x{size[0]} and {self.images.name(index)} is {image.shape[1]}x{image.shape[0]}; "
                            "resize them to one size first"
                        )
                yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


class FolderImages:
    def __init__(self, folder: Path):
        self.files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return str(self.files[index])

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        return list(threads.map(lambda i: decoded(self.files[i], self.name(i)), indices))


class ZipImages:
    def __init__(self, path: Path):
        self.path, self.archive = path, zipfile.ZipFile(path)
        self.names = sorted(n for n in self.archive.namelist() if Path(n).suffix.lower() in SUFFIXES)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return f"{self.names[index]} in {self.path}"

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        try:
            files = [io.BytesIO(self.archive.read(self.names[i])) for i in indices]
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
            raise MetricError(f"cannot read {self.path}: {error}") from None
        return list(threads.map(decoded, files, map(self.name, indices)))


class ArrayImages:
    """The array is read in slices, as its batches are asked for in rising order."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
            arrays = {name: self.header(name) for name in self.archive.namelist() if name.endswith(".npy")}
        except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
            raise MetricError(f"cannot read {path}: it is truncated or no .npz ({error})") from None
        images = {name: shape for name, (shape, dtype) in arrays.items() if is_images(shape, dtype)}
        if len(images) != 1:
            found = ", ".join(f"{n.removesuffix('.npy')} {d}{list(s)}" for n, (s, d) in arrays.items())
            raise MetricError(f"{path} must hold one uint8 array of images [N, H, W, C], not {found or 'nothing'}")
        ((self.member, self.shape),) = images.items()

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with self.archive.open(name) as file:
            return read_header(file)

    def __len__(self) -> int:
        return self.shape[0]

    def name(self, index: int) -> str:
        return f"image {index} in {self.path}"

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        """indices: rising, from one call to the next too, or from the start again."""
        if not hasattr(self, "file") or indices[0] < self.position:
            self.file, self.position = self.archive.open(self.member), 0
            read_header(self.file)
        size = int(np.prod(self.shape[1:]))
        try:
            self.file.read((int(indices[0]) - self.position) * size)
            block = self.file.read((int(indices[-1]) + 1 - int(indices[0])) * size)
            images = np.frombuffer(block, np.uint8).reshape(-1, *self.shape[1:])[indices - indices[0]]
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, IndexError) as error:
            raise MetricError(f"cannot read {self.path}: it is truncated or damaged ({error})") from None
        self.position = int(indices[-1]) + 1
        images = images[..., None] if images.ndim == 3 else images
        return [np.ascontiguousarray(np.broadcast_to(i[..., :3], (*i.shape[:2], 3))) for i in images]


def read_header(file) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an .npy stream, left at its data. Raises ValueError for anything but plain C order."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("an array in Fortran order")
    return shape, dtype


def is_images(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    return dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3, 4))) and min(shape[1:]) > 0


def decoded(file, name: str) -> np.ndarray:
    """uint8 [H, W, 3], an alpha channel left out, as the field's tools do it. Raises MetricError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if image.mode.startswith(("I", "F")):
                    raise MetricError(f"{name} has more than 8 bits a channel: convert it to 8 bits first")
                return np.asarray(image.convert("RGB"))
    except MetricError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        reason = "no image" if isinstance(error, Image.UnidentifiedImageError) else error
        raise MetricError(f"cannot read {name}: {reason}") from None
