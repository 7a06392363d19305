"""Where images come from, behind one interface: so many images, each drawn or decoded at a size and channel count."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from .errors import DataError
from .synthetic import SyntheticShapes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Format:
    """What images are by themselves: the largest power of two that the smaller sides allow, and their channels."""

    resolution: int
    channels: int


class Source(Protocol):
    """A set of images.

    Attributes:
        name: for file names and messages. classes: their names, [] where there are none.
        labels: class indices [len], int64, or None.
    """

    name: str
    classes: list[str]
    labels: np.ndarray | None

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes when the images do; does not decode them."""

    def native_format(self) -> Format: ...

    def image(self, index: int, resolution: int, channels: int) -> np.ndarray:
        """uint8 [channels, resolution, resolution]. Raises OSError or ValueError for an image that cannot be read."""

    def describe(self, index: int) -> str:
        """The image's name in messages."""


def open_source(data: str, labels: bool = False) -> Source:
    """The set that a name or a path stands for: "synthetic", or a folder of images.

    Args:
        labels: read classes (of a folder: its subfolders).

    Raises:
        DataError: no such set or folder, no images in it, or no classes where labels are asked for.
    """
    if data == "synthetic":
        return SyntheticShapes(labelled=labels)
    return ImageFolder(Path(data), labels)


class ImageFolder:
    """Images in a folder and all its subfolders; with labels, each first-level subfolder is a class.

    Images are turned as their EXIF data says, cut to the square in their middle and resized (Lanczos). Where the
    channels asked for leave no room for transparency, they are laid on white.
    """

    def __init__(self, folder: Path, labels: bool = False):
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise DataError(f"{folder} {what}; name a folder of images, or 'synthetic' for the embedded set")
        self.folder, self.name = folder, folder.resolve().name
        self.paths = sorted(self._find(folder))
        if not self.paths:
            raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}), nor do its subfolders")
        self.classes, self.labels = [], None
        if labels:
            first = [p.relative_to(folder).parts[0] if p.parent != folder else None for p in self.paths]
            if None in first:
                loose = self.paths[first.index(None)].name
                raise DataError(f"--labels needs every image in a class subfolder of {folder}, but {loose} is in none")
            self.classes = sorted(set(first))
            self.labels = np.array([self.classes.index(c) for c in first], dtype=np.int64)

    @staticmethod
    def _find(folder: Path):
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES)

    def __len__(self) -> int:
        return len(self.paths)

    def describe(self, index: int) -> str:
        return str(self.paths[index])

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=12)
        for path in self.paths:
            try:
                stat = path.stat()
                version = f"{stat.st_size}\0{stat.st_mtime_ns}"
            except OSError:  # a broken link: an image that cannot be read, like any other
                version = "missing"
            digest.update(f"{path.relative_to(self.folder)}\0{version}\n".encode())
        digest.update("\0".join(self.classes).encode())
        return digest.hexdigest()

    def native_format(self) -> Format:
        sides, bands = [], Counter()
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    sides.append(min(image.size))
                    bands["L" if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16") else "RGB"] += 1
            except (OSError, ValueError, Image.DecompressionBombError):
                continue
        if not sides:
            raise DataError(f"none of the {len(self.paths)} images in {self.folder} can be read")
        smallest = min(sides)
        if smallest < 4:
            raise DataError(f"{self.folder} holds images smaller than 4x4; give --resolution, or remove them")
        return Format(min(1 << (smallest.bit_length() - 1), 1024), 3 if bands["RGB"] else 1)

    def image(self, index: int, resolution: int, channels: int) -> np.ndarray:
        with Image.open(self.paths[index]) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I;16") or image.mode == "I":
                image = Image.fromarray(np.rint(np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            if "A" in MODES[channels]:
                image = image.convert("RGBA" if channels == 4 else "LA")
            else:
                if image.has_transparency_data:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                image = image.convert(MODES[channels])
            if image.size != (resolution, resolution):
                image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
            pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))
