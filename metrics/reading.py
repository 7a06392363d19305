"""Read images from a folder, zip or .npz as uint8 RGB batches, without unpacking the archive to disk."""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from pggan.console import escape_for_terminal
from pggan.untrusted.files import check_unpacked_size, identify_file

from .errors import DAMAGED, MetricError

# The rules of datasets/listing.py, so that training and metrics select the same files; repeated, because this package
# does not import others
Image.init()
SUFFIXES = set(".jpg .jpeg .jfif .png .apng .webp .bmp .tif .tiff .gif .avif .jp2 .ppm .pgm .pbm .tga".split())
RUN_FILES = {"config.json", "log.jsonl", "metrics.jsonl"}
RUN_GRID = re.compile(r"(fakes-\d{8,}|reals-\d{4})\.png")
RUN_WRITES = re.compile(rf"samples/{RUN_GRID.pattern}|(checkpoints|outputs|tensorboard|wandb)/.*")
SYSTEM_FOLDERS = {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "lost+found"}
SIGNED_FILES = {"dataset.json", "found.json", "config.json"}
# Those of datasets/images.py: no format that starts a program, as EPS does
FORMATS = "JPEG PNG WEBP BMP TIFF GIF AVIF JPEG2000 PPM TGA".split()
BATCH = 64  # images per batch; our choice, results do not depend on it
MAX_LISTED = 5  # extensions of skipped files in a note; our choice, they fit in one terminal line
MAX_FILE_BYTES = 256 << 20  # size of a file in a zip; our choice, a 9000 x 9000 uncompressed RGB image has 243 MB
SEED = 2020  # for drawing and shuffling images: torch-fidelity's default seed, used by all metrics in here


class ImageSet:
    """A dataset of images in a fixed order.

    Args:
        path: a folder, searched recursively; a zip of images; or an .npz with one uint8 array [N, H, W] or
            [N, H, W, C] with 1, 3 or 4 channels. Its other arrays, such as labels, are ignored.
        count: number of images to draw, with a fixed seed; None for all.

    Attributes:
        indices: of the images used, ascending.
        notes: sentences on skipped files.

    Raises:
        MetricError: the path does not exist or cannot be read, or contains fewer than `count` images, or none.
    """

    def __init__(self, path: str | os.PathLike, count: int | None = None):
        self.path = Path(path)
        if not str(path) or not self.path.exists():
            raise MetricError(f"{path} does not exist" if str(path) else "the path of the images is empty")
        if not os.access(self.path, os.R_OK):
            raise MetricError(f"cannot read {path}: permission denied")
        if self.path.is_dir():
            self.images: FolderImages | ZipImages | ArrayImages = FolderImages(self.path)
        elif not self.path.is_file():
            raise MetricError(f"{path} is neither a folder nor a regular file; pass a folder, zip or .npz")
        elif self.path.suffix.lower() == ".npz":
            self.images = ArrayImages(self.path)
        elif is_zip(self.path):
            self.images = ZipImages(self.path)
        else:
            raise MetricError(f"{path} is {identify_file(self.path) or 'not a folder, zip or .npz; pass one of these'}")
        total, self.notes = len(self.images), self.images.notes
        if not total:
            raise MetricError("; ".join([f"{path} contains no images ({', '.join(sorted(SUFFIXES))})", *self.notes]))
        if count is not None and count > total:
            raise MetricError(f"--num-images: {path} contains {total} images, fewer than {count}; use at most {total}")
        self.indices = np.arange(total)
        if count is not None:
            self.indices = np.sort(np.random.RandomState(SEED).choice(total, count, replace=False))

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[Tensor]:
        """Yield uint8 batches [N, 3, H, W]. Raises MetricError if an image cannot be read or has another size."""
        size: tuple[int, ...] = ()
        first = 0
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(self.indices), BATCH):
                images = self.images.read(self.indices[start : start + BATCH], threads)
                for index, image in zip(self.indices[start:], images, strict=False):
                    size, first = (size, first) if size else (image.shape, index)
                    if image.shape != size:
                        raise MetricError(
                            f"{self.path} contains images of different sizes: {self.images.name(first)} is "
                            f"{size[1]}x{size[0]} and {self.images.name(index)} is {image.shape[1]}x{image.shape[0]}; "
                            "resize them to one size first"
                        )
                yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def is_zip(path: Path) -> bool:
    """Return whether a file is a zip in one part."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # a part of a split zip
        return False


def shuffle_names(names: list) -> list:
    """Return names in a fixed random order.

    Sorted names often follow the classes, and MS-SSIM compares consecutive images, which should be independent.
    """
    names = sorted(names)
    return [names[i] for i in np.random.RandomState(SEED).permutation(len(names))]


def choose_images(names: list[str], read: Callable[[str], bytes]) -> tuple[list[str], list[str]]:
    """Return the names of the images among all files, and sentences on skipped files.

    Hidden files are skipped, and files that this project's runs and commands wrote below the top folder.

    Args:
        names: paths of all files, relative to the folder or archive.
        read: returns the content of a file; called for JSON files only.
    """
    places = {name: name.replace("\\", "/").removeprefix("./").lstrip("/") for name in names}
    hidden = {name for name, place in places.items() if any(map(is_hidden, place.split("/")))}
    visible = {
        place: name for name, place in places.items() if place and name not in hidden and not place.endswith("/")
    }
    outputs = find_output_folders(visible, read)
    images, ours = [], 0
    skipped: Counter[str] = Counter()
    for place, name in visible.items():
        if get_suffix(place) not in SUFFIXES:
            skipped[escape_for_terminal(get_suffix(place)) or "without an extension"] += 1
        elif is_in_output(place, outputs):
            ours += 1
        else:
            images.append(name)
    skipped.pop(".json", None)  # label files, which belong to the dataset
    most = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED]
    notes = [f"skipped files: {', '.join(f'{count:,} {suffix}' for suffix, count in most)}"] if most else []
    notes += [f"skipped {ours:,} images that runs or commands of this project wrote"] if ours else []
    return images, notes


def find_common_folder(names: list[str]) -> str:
    """Return the first-level folder that contains all images of a zip, as in "photos/", or ""."""
    first = {name.split("/", 1)[0] if "/" in name else "" for name in names if get_suffix(name) in SUFFIXES}
    first -= SYSTEM_FOLDERS
    return f"{first.pop()}/" if len(first) == 1 and "" not in first else ""


def find_output_folders(visible: dict[str, str], read: Callable[[str], bytes]) -> set[str]:
    """Return the folders that this project's runs and commands wrote, as in "runs/photos-16/"; "" for the top.

    A run directory is recognized by two of its files or folders, other output by a JSON file with "made_by".

    Args:
        visible: names of all files that are not hidden, by their normalized paths.
        read: returns the content of a file.
    """
    marks: dict[str, set[str]] = defaultdict(set)
    grids: dict[str, set[str]] = defaultdict(set)
    generated = set()
    for place, name in visible.items():
        folder, slash, file = place.rpartition("/")
        parent, up, last = folder.rpartition("/")
        is_grid = RUN_GRID.fullmatch(file)
        if file in RUN_FILES:
            marks[folder + slash].add(file)
        elif (last == "checkpoints" and file.endswith(".pt")) or (last == "samples" and is_grid):
            marks[parent + up].add(last)
        if slash:
            grids[folder + slash].add(file[:5] if is_grid else "another file")
        if slash and file in SIGNED_FILES and b'"made_by"' in read(name):
            generated.add(folder + slash)
    generated |= {folder for folder, found in grids.items() if found == {"fakes", "reals"}}
    return generated | {folder for folder, found in marks.items() if len(found) > 1}


def is_in_output(place: str, outputs: set[str]) -> bool:
    """Return whether a file is in one of `find_output_folders`; in the top folder, whether a run wrote it."""
    if "" in outputs and RUN_WRITES.fullmatch(place):
        return True
    parts = place.split("/")
    return bool(outputs) and any("/".join([*parts[:i], ""]) in outputs for i in range(1, len(parts)))


def is_hidden(part: str) -> bool:
    """Return whether files and folders of this name are skipped: dot files, and folders that systems add."""
    return part.startswith(".") or part in SYSTEM_FOLDERS


def get_suffix(name: str) -> str:
    """Return a name's extension with the dot, in lower case; "" without one."""
    return os.path.splitext(name)[1].lower()


class FolderImages:
    """Image files in a folder and its subfolders; links to folders are followed, and each folder is read once."""

    def __init__(self, folder: Path):
        def unreadable(error: OSError) -> NoReturn:
            raise MetricError(f"cannot read {error.filename}: {error.strerror}")

        found, seen = [], set()
        for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            if (real := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(real)
            found += [os.path.relpath(os.path.join(parent, name), folder) for name in names]
        try:
            images, self.notes = choose_images(found, lambda name: (folder / name).read_bytes())
        except OSError as error:
            unreadable(error)
        self.files = shuffle_names([folder / name for name in images])

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return escape_for_terminal(str(self.files[index]))

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        return list(threads.map(lambda i: decode_image(self.files[i], self.name(i)), indices))


class ZipImages:
    """Image files in a zip, read in place."""

    def __init__(self, path: Path):
        self.path = path
        try:
            self.archive = zipfile.ZipFile(path)
            around = find_common_folder(self.archive.namelist())
            within = [name.removeprefix(around) for name in self.archive.namelist()]
            names, self.notes = choose_images(within, lambda name: self.archive.read(around + name))
        except DAMAGED as error:
            raise MetricError(f"cannot read {path}: {error}") from None
        self.names = shuffle_names([around + name for name in names])

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return f"{escape_for_terminal(self.names[index])} in {self.path}"

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        return [decode_image(self.content(i), self.name(i)) for i in indices]

    def content(self, index: int) -> io.BytesIO:
        info = self.archive.getinfo(self.names[index])
        if info.file_size > MAX_FILE_BYTES:
            raise MetricError(
                f"{self.name(index)} is larger than {MAX_FILE_BYTES >> 20} MiB; unpack the zip and pass the folder"
            )
        try:
            check_unpacked_size(info)
            return io.BytesIO(self.archive.read(info))
        except DAMAGED as error:
            raise MetricError(f"cannot read {self.name(index)}: {error}") from None


class ArrayImages:
    """Images in an array of an .npz; reading them in ascending order decompresses the array once."""

    def __init__(self, path: Path):
        self.path, self.notes = path, list[str]()
        try:
            self.archive = zipfile.ZipFile(path)
            arrays = {name: self.header(name) for name in self.archive.namelist() if name.endswith(".npy")}
        except DAMAGED as error:
            reason = identify_file(path) or f"truncated or not an .npz ({error})"
            raise MetricError(f"cannot read {path}: it is {reason}") from None
        images = {name: shape for name, (shape, dtype) in arrays.items() if is_images(shape, dtype)}
        if len(images) != 1:
            found = ", ".join(f"{n.removesuffix('.npy')} {d}{list(s)}" for n, (s, d) in arrays.items())
            raise MetricError(
                f"{path} must contain exactly one uint8 array of images [N, H, W, C], but contains {found or 'nothing'}"
            )
        ((self.member, self.shape),) = images.items()
        self.size = math.prod(self.shape[1:])
        self.position: int | None = None

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        check_unpacked_size(self.archive.getinfo(name))
        with self.archive.open(name) as file:
            shape, dtype = read_header(file)
            if dtype == np.uint8 and file.tell() + math.prod(shape) != self.archive.getinfo(name).file_size:
                raise ValueError(f"{name} declares the shape {shape}, which does not match its size")
            return shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def name(self, index: int) -> str:
        return f"image {index} in {self.path}"

    def read(self, indices: np.ndarray, threads: ThreadPoolExecutor) -> list[np.ndarray]:
        try:
            return [self.image(int(i)) for i in indices]
        except DAMAGED as error:
            raise MetricError(f"cannot read {self.path}: it is truncated or damaged ({error})") from None

    def image(self, index: int) -> np.ndarray:
        if self.position is None or index < self.position:
            self.file, self.position = self.archive.open(self.member), 0
            read_header(self.file)
        skip = (index - self.position) * self.size
        while skip:
            skip -= len(self.file.read(min(skip, 1 << 20))) or skip  # in parts of 1 MiB: a member cannot seek cheaply
        image = np.frombuffer(self.file.read(self.size), np.uint8).reshape(self.shape[1:])
        self.position = index + 1
        image = image[..., None] if image.ndim == 2 else image
        return np.ascontiguousarray(np.broadcast_to(image[..., :3], (*image.shape[:2], 3)))


def read_header(file) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an .npy stream, and leave it at the data. Raises ValueError unless it is in C order."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"its .npy format version is {'.'.join(map(str, version))}, not 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if fortran and len(shape) > 1:
        raise ValueError("its array is in Fortran order; save it with np.ascontiguousarray")
    return shape, dtype


def is_images(shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Return whether an array has the shape and dtype of images."""
    gray, color = len(shape) == 3, len(shape) == 4 and shape[3] in (1, 3, 4)
    return dtype == np.uint8 and (gray or color) and min(shape) > 0


def decode_image(file, name: str) -> np.ndarray:
    """Return an image as uint8 [H, W, 3], without its alpha channel, as pytorch-fid and torch-fidelity do.

    Args:
        file: path, or open file.
        name: for messages.

    Raises:
        MetricError: the image cannot be read, is too large, or has more than 8 bits per channel.
    """
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise MetricError(f"cannot read {name}: not a regular file")
    try:
        with Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise MetricError(
                    f"{name} has {image.width}x{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS:,}; resize it"
                )
            if image.mode.startswith(("I", "F")):
                raise MetricError(f"{name} has more than 8 bits per channel; convert it to 8 bits first")
            return np.asarray(image.convert("RGB"))
    except MetricError:
        raise
    except Exception as error:  # Pillow's decoders raise many types
        reason = "not an image, or in an unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise MetricError(f"cannot read {name}: {reason}") from None
