"""Open a dataset by path or name."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

from pggan.console import escape_for_terminal
from pggan.untrusted.files import identify_file

from . import tfrecords, torchvision_sets
from .arrays import Arrays
from .base import DataError, Source
from .cache_files import find_cache_folder
from .files import Folder, Tar, Zip
from .synthetic import SyntheticShapes

SOURCE_TYPES = (
    f"a folder, zip or tar of images, an .npz, a folder of the official TFRecords, "
    f"{', '.join(torchvision_sets.NAMES)}, or synthetic"
)


def open_source(data: str, labels: bool = False) -> Source:
    """Open a dataset; an existing path takes precedence over a name.

    Args:
        data: a folder, zip or tar of images, an .npz, a folder of the official multi-resolution TFRecords, the name of
            a torchvision dataset, or "synthetic".
        labels: whether to read classes: from class folders, a dataset.json, or the dataset's own labels.

    Raises:
        DataError: there is no such path or name, it contains no images, or labels are requested and missing.
    """
    if not data:
        raise DataError(f"the path of the images is empty; pass {SOURCE_TYPES}")
    if data == "synthetic":
        return SyntheticShapes(labeled=labels)
    path = Path(data)
    if os.path.isdir(path):
        return open_folder(path, labels)
    if os.path.isfile(path):
        return open_file(path, labels)
    if os.path.exists(path):
        raise DataError(f"{data} is neither a folder nor a regular file; pass {SOURCE_TYPES}")
    if torchvision_sets.is_torchvision_name(data):
        return torchvision_sets.open_torchvision_set(data, find_cache_folder() / "torchvision", labels)
    raise DataError(f"{data} does not exist; pass {SOURCE_TYPES}")


def open_folder(path: Path, labels: bool) -> Source:
    """Open a folder of TFRecords or images. Raises DataError if it cannot be read or contains neither."""
    try:
        return tfrecords.TFRecords(path, labels) if tfrecords.find_files(path) else Folder(path, labels)
    except OSError as error:
        raise DataError(f"{escape_for_terminal(str(path))} cannot be read: {error.strerror or error}") from None


def open_file(path: Path, labels: bool) -> Source:
    """Open an .npz, zip or tar, the latter two by content. Raises DataError for other files, or if it is damaged."""
    try:
        if path.suffix.lower() == ".npz":
            return Arrays(path, labels)
        if zipfile.is_zipfile(path):
            return Zip(path, labels)
        if is_tar(path):
            return Tar(path, labels)
        found = identify_file(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raise DataError(f"{path} is {found or f'not a zip, tar or .npz file; pass {SOURCE_TYPES}'}")


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar, or compressed as tars are.

    tarfile.is_tarfile would decompress the first header, which can be of any size. Raises OSError.
    """
    with path.open("rb") as file:
        if file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):  # gzip, bzip2, xz
            return True
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, MemoryError, ValueError, OverflowError):
        return False
