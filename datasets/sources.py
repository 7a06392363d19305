"""Where images come from, behind one interface: so many images, each drawn or decoded at a size and channel count."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .base import DataError, Format, Source
from .synthetic import SyntheticShapes

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


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
        if not os.path.isdir(folder):
            what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
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
        seen = set()
        for parent, folders, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(parent)) in seen:  # a link back up
                folders.clear()
                continue
            seen.add(real)
            visible = (name for name in names if not name.startswith("."))
            yield from (Path(parent, name) for name in visible if Path(name).suffix.lower() in SUFFIXES)

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
            digest.update(f"{path.relative_to(self.folder)}\0{version}\n".encode("utf-8", "surrogateescape"))
        digest.update("\0".join(self.classes).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def native_format(self) -> Format:
        sides: dict[Path, int] = {}
        modes = set()
        for path in self.paths:
            try:
                with Image.open(path) as image:
                    sides[path] = min(image.size)
                    modes.add(image.mode.split(";")[0])
            except (OSError, ValueError, Image.DecompressionBombError):
                continue
        if not sides:
            raise DataError(f"none of the {len(self.paths)} images in {self.folder} can be read")
        smallest = min(sides, key=sides.get)
        if sides[smallest] < 4:
            raise DataError(f"{smallest} is smaller than 4x4 pixels; remove it, or give --resolution")
        resolution = min(1 << (sides[smallest].bit_length() - 1), 1024)
        return Format(resolution, 1 if modes <= {"1", "L", "LA", "La", "I"} else 3)

    def image(self, index: int, resolution: int, channels: int) -> np.ndarray:
        with Image.open(self.paths[index]) as file:
            image = with_channels(eight_bits(ImageOps.exif_transpose(file)), channels)
        if image.size != (resolution, resolution):
            image = ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grayscale as 8-bit; other modes as they are. Raises ValueError for what has no known range."""
    if not image.mode.startswith(("I", "F")):
        return image
    pixels = np.asarray(image)
    if image.mode == "F" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("32-bit grayscale has no range of its own; convert it to 8 or 16 bits")
    return Image.fromarray(np.rint(pixels / 257).astype(np.uint8))


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """The image in the mode for so many channels; transparency that has no channel is laid on white."""
    if image.mode in ("LAB", "HSV", "YCbCr"):  # Pillow converts these to RGB only
        image = image.convert("RGB")
    if "A" not in MODES[channels] and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(MODES[channels])
